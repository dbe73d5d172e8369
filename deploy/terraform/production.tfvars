environment = "production"
region      = "eu-central-1"
namespace   = "paceline"

environment       = "production"
region            = "eu-central-1"
namespace         = "paceline"
airflow_namespace = "airflow"

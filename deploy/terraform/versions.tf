# State: S3 with versioning, encryption and its own lock file; one key for each environment. Given at init, so that staging's
# credentials never see production's state:
#   terraform init -backend-config=bucket=acme-terraform -backend-config=key=paceline/staging -backend-config=region=eu-central-1
terraform {
  required_version = ">= 1.10"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = {
      Project     = "paceline"
      Environment = var.environment
      ManagedBy   = "terraform"
    }
  }
}

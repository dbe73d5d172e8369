variable "environment" {
  description = "staging or production; part of every name"
  type        = string
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment is staging or production."
  }
}

variable "region" {
  description = "The AWS region"
  type        = string
}

variable "vpc_id" {
  description = "The network, made elsewhere, with routes from its private subnets to the registries"
  type        = string
}

variable "private_subnet_ids" {
  description = "Private subnets in at least two zones"
  type        = list(string)
  validation {
    condition     = length(var.private_subnet_ids) >= 2
    error_message = "private_subnet_ids needs subnets in at least two zones."
  }
}

variable "api_allowed_cidrs" {
  description = "From where the public API endpoint may be reached; empty: only from inside of the network"
  type        = list(string)
  default     = []
  validation {
    condition     = !contains(var.api_allowed_cidrs, "0.0.0.0/0")
    error_message = "api_allowed_cidrs must not let the whole Internet in."
  }
}

variable "kubernetes_version" {
  description = "Of the cluster"
  type        = string
  default     = "1.34"
}

variable "airflow_namespace" {
  description = "The namespace of deploy/airflow/cluster"
  type        = string
}

variable "namespace" {
  description = "The namespace of deploy/kubernetes' overlay"
  type        = string
}

variable "nodes" {
  description = "The group for everything without a GPU"
  type        = object({ instance_types = list(string), min = number, max = number })
  default     = { instance_types = ["m7i.xlarge"], min = 3, max = 12 }
}

variable "gpu_nodes" {
  description = "The group with a GPU; scaled to none while nothing asks for one"
  type        = object({ instance_types = list(string), max = number })
  default     = { instance_types = ["g6.xlarge"], max = 4 }
}

variable "database" {
  description = "PostgreSQL for the ledger, Airflow and MLflow"
  type        = object({ instance_class = string, storage_gb = number, multi_az = bool, backup_days = number })
  default     = { instance_class = "db.m7g.large", storage_gb = 100, multi_az = true, backup_days = 14 }
}

variable "cache_node_type" {
  description = "Redis, where replicas share rate limits"
  type        = string
  default     = "cache.t4g.small"
}

variable "is_protected" {
  description = "Whether database and buckets refuse to be destroyed"
  type        = bool
  default     = true
}

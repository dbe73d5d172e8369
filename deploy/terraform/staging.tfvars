environment       = "staging"
region            = "eu-central-1"
namespace         = "paceline-staging"
airflow_namespace = "airflow-staging"
nodes             = { instance_types = ["m7i.large"], min = 2, max = 4 }
gpu_nodes         = { instance_types = ["g6.xlarge"], max = 1 }
database          = { instance_class = "db.t4g.medium", storage_gb = 50, multi_az = false, backup_days = 7 }
is_protected      = false

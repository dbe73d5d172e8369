output "cluster" {
  description = "For aws eks update-kubeconfig --name"
  value       = aws_eks_cluster.this.name
}

output "repositories" {
  description = "The images' repositories, for the overlay and docker/build.py --registry"
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}

output "bucket" {
  description = "Archive, snapshots, Airflow's logs"
  value       = aws_s3_bucket.this.bucket
}

output "file_system" {
  description = "For the storage class \"shared\" (EFS CSI driver)"
  value       = aws_efs_file_system.shared.id
}

output "database" {
  description = "PostgreSQL's address, and the secret that has its password"
  value       = { address = aws_db_instance.this.address, secret = aws_db_instance.this.master_user_secret[*].secret_arn }
}

output "redis" {
  description = "For PACELINE_SERVING_REDIS_URL, as rediss://"
  value       = aws_elasticache_replication_group.this.primary_endpoint_address
}

output "account_roles" {
  description = "For the annotation eks.amazonaws.com/role-arn of the service accounts"
  value       = { for name, role in aws_iam_role.account : name => role.arn }
}

# terraform test: plans with a mocked provider; nothing of AWS is reached
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
}

variables {
  environment        = "production"
  region             = "eu-central-1"
  namespace          = "paceline"
  airflow_namespace  = "airflow"
  vpc_id             = "vpc-0a1b2c3d"
  private_subnet_ids = ["subnet-0a", "subnet-0b", "subnet-0c"]
}

run "production_is_protected_and_spread" {
  command = plan
  assert {
    condition     = aws_db_instance.this.deletion_protection && aws_db_instance.this.multi_az && !aws_db_instance.this.publicly_accessible
    error_message = "production's database has a standby, refuses to be destroyed, and is not public"
  }
  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "production's bucket is not destroyed with what is in it"
  }
  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "nobody outside reaches the API who is not named"
  }
  assert {
    condition     = length(aws_efs_mount_target.shared) == 3
    error_message = "each zone mounts the shared file system"
  }
}

run "gpu_nodes_come_when_they_are_asked_for_and_take_nothing_else" {
  command = plan
  assert {
    condition     = aws_eks_node_group.gpu.scaling_config[0].min_size == 0
    error_message = "without work there is no GPU to pay for"
  }
  assert {
    condition     = one(aws_eks_node_group.gpu.taint).key == "nvidia.com/gpu" && aws_eks_node_group.gpu.labels["nvidia.com/gpu.present"] == "true"
    error_message = "taint and label are those of deploy/kubernetes/components/gpu"
  }
}

run "staging_may_be_taken_down" {
  command = plan
  variables {
    environment       = "staging"
    namespace         = "paceline-staging"
    airflow_namespace = "airflow-staging"
    is_protected      = false
    database          = { instance_class = "db.t4g.medium", storage_gb = 50, multi_az = false, backup_days = 7 }
  }
  assert {
    condition     = !aws_db_instance.this.deletion_protection && !aws_db_instance.this.multi_az && aws_s3_bucket.this.force_destroy
    error_message = "staging costs less, and can be destroyed"
  }
  assert {
    condition     = aws_ecr_repository.this["paceline-serving"].name == "staging/paceline-serving"
    error_message = "names carry the environment"
  }
}

run "an_environment_that_is_none_is_refused" {
  command = plan
  variables {
    environment = "prod"
  }
  expect_failures = [var.environment]
}

run "an_api_open_to_all_is_refused" {
  command = plan
  variables {
    api_allowed_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.api_allowed_cidrs]
}

run "one_zone_is_not_enough" {
  command = plan
  variables {
    private_subnet_ids = ["subnet-0a"]
  }
  expect_failures = [var.private_subnet_ids]
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  name = "paceline-${var.environment}"
  root = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"
}

# One key for all that is kept; its policy leaves the decision to IAM
data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:a key's policy names the account as a whole, and IAM decides who of it
  #checkov:skip=CKV_AWS_111:the same
  #checkov:skip=CKV_AWS_356:in a key's policy "*" means the key that has it
  statement {
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = [local.root]
    }
  }
}

resource "aws_kms_key" "this" {
  description             = "All that ${local.name} keeps"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

# Images: a tag never changes its content, and each push is scanned
resource "aws_ecr_repository" "this" {
  for_each             = toset(["paceline-serving", "paceline-serving-gpu", "paceline-pipelines"])
  name                 = "${var.environment}/${each.key}"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.is_protected
  image_scanning_configuration {
    scan_on_push = true
  }
  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.this.arn
  }
}

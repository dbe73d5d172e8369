# Roles that service accounts take, by the cluster's own tokens: each exactly one account of one namespace
locals {
  issuer   = replace(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://", "")
  accounts = { pipelines = "${var.namespace}:paceline-pipelines", airflow = "${var.airflow_namespace}:airflow-worker" }
}

data "aws_iam_policy_document" "account" {
  for_each = local.accounts
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.cluster.arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${each.value}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "account" {
  for_each           = local.accounts
  name               = "${local.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.account[each.key].json
}

data "aws_iam_policy_document" "bucket_access" {
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
  }
  statement {
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.this.arn}/*"]
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
}

resource "aws_iam_role_policy" "bucket_access" {
  for_each = local.accounts
  name     = "bucket"
  role     = aws_iam_role.account[each.key].id
  policy   = data.aws_iam_policy_document.bucket_access.json
}

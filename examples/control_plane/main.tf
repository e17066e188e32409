# Plans and keys of a quota ledger, by Terraform's own AWS provider. First, beside this file:
#   quota serve aws --store sqlite:///usage.db --credentials credentials.json --reveal values.key
# (credentials.json: {"AKIDEXAMPLE": "wJalrXUtnFEMI"}; values.key: what Fernet.generate_key() printed, since Terraform
# reads values back). Then: terraform init && terraform apply
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

provider "aws" {
  region                      = "eu-west-1"
  access_key                  = "AKIDEXAMPLE"
  secret_key                  = "wJalrXUtnFEMI"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  endpoints {
    apigateway = "http://127.0.0.1:8080"
  }
}

resource "aws_api_gateway_usage_plan" "gold" {
  name = "gold"
  api_stages {
    api_id = "shop"
    stage  = "prod"
  }
  quota_settings {
    limit  = 5000
    period = "MONTH"
  }
  throttle_settings {
    rate_limit  = 10
    burst_limit = 20
  }
}

resource "aws_api_gateway_api_key" "acme" {
  name = "acme"
}

resource "aws_api_gateway_usage_plan_key" "acme" {
  key_id        = aws_api_gateway_api_key.acme.id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.gold.id
}

output "value" {
  value     = aws_api_gateway_api_key.acme.value
  sensitive = true
}

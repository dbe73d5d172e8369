"""All the work from data to a promoted model; never imports Airflow."""

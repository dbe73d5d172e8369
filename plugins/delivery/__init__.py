"""What Airflow needs of ours beside the DAG files: triggers and callbacks."""

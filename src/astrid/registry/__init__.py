"""The only room that talks to MLflow: tracking of runs, gates, promotion and the model card."""

-- What pipeline/tracking/store.py looks for in MLflow's tables by other than MLflow's own indexes. They hold rows of this project alone,
-- and MLflow's migrations keep them. deploy/prepare.py runs this file before the server starts; for another server of MLflow:
--   psql DATABASE -f deploy/indexes.sql
-- which keeps writers waiting for a second at 100,000 runs, once. Nothing depends on them but time.
CREATE INDEX IF NOT EXISTS batch_norm_trial_key ON tags (value)
  WHERE key = 'trial_key';
CREATE INDEX IF NOT EXISTS batch_norm_kind ON tags (value)
  WHERE key = 'kind' AND (value = 'evaluation' OR value = 'report' OR value = 'verdicts');
CREATE INDEX IF NOT EXISTS batch_norm_running ON runs (status, experiment_id, lifecycle_stage)
  WHERE status = 'RUNNING';

BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE events (
	tenant VARCHAR(63) NOT NULL, 
	job VARCHAR(63) NOT NULL, 
	sequence BIGINT NOT NULL, 
	time DATETIME NOT NULL, 
	payload JSON NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (tenant, job, sequence), 
	CONSTRAINT fk_events_tenant_job FOREIGN KEY(tenant, job) REFERENCES jobs (tenant, job)
);
INSERT INTO "events" VALUES('acme','succeeded',1,'2026-11-23 14:48:32.616635','{"kind": "state_changed", "state": "QUEUED", "error": null}');
INSERT INTO "events" VALUES('acme','succeeded',2,'2026-11-23 14:48:32.629579','{"kind": "state_changed", "state": "PREPARING", "error": null}');
INSERT INTO "events" VALUES('acme','succeeded',3,'2026-11-23 14:48:32.645100','{"kind": "state_changed", "state": "RUNNING", "error": null}');
INSERT INTO "events" VALUES('acme','succeeded',4,'2026-11-23 14:48:32.658708','{"kind": "state_changed", "state": "EVALUATING", "error": null}');
INSERT INTO "events" VALUES('acme','succeeded',5,'2026-11-23 14:48:32.670614','{"kind": "state_changed", "state": "PUBLISHING", "error": null}');
INSERT INTO "events" VALUES('acme','succeeded',6,'2026-11-23 14:48:32.697165','{"kind": "published", "version": "tenants/acme/adapters/voice/versions/20260101T000000-succeeded-1", "promoted": false, "route_generation": 0}');
INSERT INTO "events" VALUES('acme','succeeded',7,'2026-11-23 14:48:32.697165','{"kind": "state_changed", "state": "SUCCEEDED", "error": null}');
INSERT INTO "events" VALUES('acme','failed',1,'2026-11-23 14:48:32.710685','{"kind": "state_changed", "state": "QUEUED", "error": null}');
INSERT INTO "events" VALUES('acme','failed',2,'2026-11-23 14:48:32.738380','{"kind": "state_changed", "state": "PREPARING", "error": null}');
INSERT INTO "events" VALUES('acme','failed',3,'2026-11-23 14:48:32.753049','{"kind": "state_changed", "state": "FAILED", "error": {"reason": "NON_FINITE", "message": "loss is NaN", "metadata": {}}}');
INSERT INTO "events" VALUES('acme','cancelled',1,'2026-11-23 14:48:32.766544','{"kind": "state_changed", "state": "QUEUED", "error": null}');
INSERT INTO "events" VALUES('acme','cancelled',2,'2026-11-23 14:48:32.778813','{"kind": "state_changed", "state": "PREPARING", "error": null}');
INSERT INTO "events" VALUES('acme','cancelled',3,'2026-11-23 14:48:32.837868','{"kind": "state_changed", "state": "CANCELLED", "error": null}');
INSERT INTO "events" VALUES('acme','running',1,'2026-11-23 14:48:32.850694','{"kind": "state_changed", "state": "QUEUED", "error": null}');
INSERT INTO "events" VALUES('acme','running',2,'2026-11-23 14:48:32.863113','{"kind": "state_changed", "state": "PREPARING", "error": null}');
INSERT INTO "events" VALUES('acme','running',3,'2026-11-23 14:48:32.877795','{"kind": "state_changed", "state": "RUNNING", "error": null}');
INSERT INTO "events" VALUES('acme','running',4,'2026-11-23 14:48:32.890982','{"kind": "step_progress", "step": 3, "total_steps": 10, "epoch": 0.1, "loss": 2.5, "learning_rate": 0.001, "gradient_norm": 1.0, "tokens": 300, "tokens_per_second": 50.0, "eta_seconds": 1.0}');
INSERT INTO "events" VALUES('acme','running',5,'2026-11-23 14:48:32.906978','{"kind": "checkpoint_saved", "step": 3}');
INSERT INTO "events" VALUES('acme','committed',1,'2026-11-23 14:48:32.914612','{"kind": "state_changed", "state": "QUEUED", "error": null}');
INSERT INTO "events" VALUES('acme','committed',2,'2026-11-23 14:48:32.923517','{"kind": "state_changed", "state": "PREPARING", "error": null}');
INSERT INTO "events" VALUES('acme','committed',3,'2026-11-23 14:48:32.928682','{"kind": "state_changed", "state": "RUNNING", "error": null}');
INSERT INTO "events" VALUES('acme','committed',4,'2026-11-23 14:48:32.932687','{"kind": "state_changed", "state": "EVALUATING", "error": null}');
INSERT INTO "events" VALUES('acme','committed',5,'2026-11-23 14:48:32.936572','{"kind": "state_changed", "state": "PUBLISHING", "error": null}');
INSERT INTO "events" VALUES('acme','queued',1,'2026-11-23 14:48:32.943911','{"kind": "state_changed", "state": "QUEUED", "error": null}');
CREATE TABLE jobs (
	tenant VARCHAR(63) NOT NULL, 
	job VARCHAR(63) NOT NULL, 
	request_id VARCHAR(128), 
	request_sha256 VARCHAR(64) NOT NULL, 
	spec JSON NOT NULL, 
	adapter VARCHAR(255) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	create_time DATETIME NOT NULL, 
	start_time DATETIME, 
	end_time DATETIME, 
	error JSON, 
	progress JSON, 
	effective_hyperparameters JSON, 
	cancel_requested BOOLEAN NOT NULL, 
	lease_owner VARCHAR(128), 
	lease_epoch INTEGER NOT NULL, 
	allocated_version VARCHAR(128), 
	publication JSON, 
	version VARCHAR(255) NOT NULL, 
	promoted BOOLEAN NOT NULL, 
	promotion_refusal VARCHAR(64) NOT NULL, 
	last_sequence BIGINT NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (tenant, job), 
	CONSTRAINT uq_jobs_tenant_request_id UNIQUE (tenant, request_id)
);
INSERT INTO "jobs" VALUES('acme','succeeded','request-succeeded','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_model": "base", "training_dataset": "tenants/acme/datasets/chats", "validation_dataset": null, "validation_fraction": null, "adapter": "tenants/acme/adapters/voice", "lora": {"rank": 16, "alpha": 32.0, "target_modules": [], "use_rslora": false, "dropout": 0.0}, "hyperparameters": {"learning_rate": null, "epochs": null, "batch_tokens": null, "max_sequence_length": null, "warmup_ratio": null, "weight_decay": null, "seed": null, "evaluation_interval": null, "checkpoint_interval": null, "early_stopping_patience": null}, "promotion_policy": "ALWAYS", "labels": {}}','tenants/acme/adapters/voice','SUCCEEDED','2026-11-23 14:48:32.609139','2026-11-23 14:48:32.631540','2026-11-23 14:48:32.700813',NULL,NULL,NULL,0,NULL,1,'20260101T000000-succeeded-1','{"manifest": {"schema_version": 1, "version": "tenants/acme/adapters/voice/versions/20260101T000000-succeeded-1", "create_time": "2026-11-23T14:48:32.680934Z", "base_model": "base", "base_model_digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000", "chat_template_digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000", "rank": 8, "alpha": 16.0, "use_rslora": false, "target_modules": ["q_proj"], "tensors": {"w": [8, 16]}, "files": {"adapter_config.json": {"size": 1, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}}, "lineage": {"job": "tenants/acme/jobs/one", "training_dataset": "tenants/acme/datasets/chats", "training_dataset_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "spec_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "parent_version": "", "code_version": "0", "imported_from": ""}, "evaluation": {"steps": 1, "training_loss": 1.0, "validation_loss": null, "base_validation_loss": null}}, "route": null}','tenants/acme/adapters/voice/versions/20260101T000000-succeeded-1',0,'',7);
INSERT INTO "jobs" VALUES('acme','failed','request-failed','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_model": "base", "training_dataset": "tenants/acme/datasets/chats", "validation_dataset": null, "validation_fraction": null, "adapter": "tenants/acme/adapters/voice", "lora": {"rank": 16, "alpha": 32.0, "target_modules": [], "use_rslora": false, "dropout": 0.0}, "hyperparameters": {"learning_rate": null, "epochs": null, "batch_tokens": null, "max_sequence_length": null, "warmup_ratio": null, "weight_decay": null, "seed": null, "evaluation_interval": null, "checkpoint_interval": null, "early_stopping_patience": null}, "promotion_policy": "ALWAYS", "labels": {}}','tenants/acme/adapters/voice','FAILED','2026-11-23 14:48:32.708893','2026-11-23 14:48:32.744724','2026-11-23 14:48:32.754257','{"reason": "NON_FINITE", "message": "loss is NaN", "metadata": {}}',NULL,NULL,0,NULL,1,NULL,NULL,'',0,'',3);
INSERT INTO "jobs" VALUES('acme','cancelled','request-cancelled','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_model": "base", "training_dataset": "tenants/acme/datasets/chats", "validation_dataset": null, "validation_fraction": null, "adapter": "tenants/acme/adapters/voice", "lora": {"rank": 16, "alpha": 32.0, "target_modules": [], "use_rslora": false, "dropout": 0.0}, "hyperparameters": {"learning_rate": null, "epochs": null, "batch_tokens": null, "max_sequence_length": null, "warmup_ratio": null, "weight_decay": null, "seed": null, "evaluation_interval": null, "checkpoint_interval": null, "early_stopping_patience": null}, "promotion_policy": "ALWAYS", "labels": {}}','tenants/acme/adapters/voice','CANCELLED','2026-11-23 14:48:32.764894','2026-11-23 14:48:32.783616','2026-11-23 14:48:32.842002',NULL,NULL,NULL,1,NULL,1,NULL,NULL,'',0,'',3);
INSERT INTO "jobs" VALUES('acme','running','request-running','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_model": "base", "training_dataset": "tenants/acme/datasets/chats", "validation_dataset": null, "validation_fraction": null, "adapter": "tenants/acme/adapters/voice", "lora": {"rank": 16, "alpha": 32.0, "target_modules": [], "use_rslora": false, "dropout": 0.0}, "hyperparameters": {"learning_rate": null, "epochs": null, "batch_tokens": null, "max_sequence_length": null, "warmup_ratio": null, "weight_decay": null, "seed": null, "evaluation_interval": null, "checkpoint_interval": null, "early_stopping_patience": null}, "promotion_policy": "ALWAYS", "labels": {}}','tenants/acme/adapters/voice','RUNNING','2026-11-23 14:48:32.848976','2026-11-23 14:48:32.868984',NULL,NULL,'{"step": 3, "total_steps": 10, "loss": 2.5, "validation_loss": null}',NULL,0,'host:1:old',1,NULL,NULL,'',0,'',5);
INSERT INTO "jobs" VALUES('acme','committed','request-committed','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_model": "base", "training_dataset": "tenants/acme/datasets/chats", "validation_dataset": null, "validation_fraction": null, "adapter": "tenants/acme/adapters/voice", "lora": {"rank": 16, "alpha": 32.0, "target_modules": [], "use_rslora": false, "dropout": 0.0}, "hyperparameters": {"learning_rate": null, "epochs": null, "batch_tokens": null, "max_sequence_length": null, "warmup_ratio": null, "weight_decay": null, "seed": null, "evaluation_interval": null, "checkpoint_interval": null, "early_stopping_patience": null}, "promotion_policy": "ALWAYS", "labels": {}}','tenants/acme/adapters/voice','PUBLISHING','2026-11-23 14:48:32.912934','2026-11-23 14:48:32.924830',NULL,NULL,NULL,NULL,0,'host:1:old',1,'20260101T000000-committed-1','{"manifest": {"schema_version": 1, "version": "tenants/acme/adapters/voice/versions/20260101T000000-committed-1", "create_time": "2026-11-23T14:48:32.939340Z", "base_model": "base", "base_model_digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000", "chat_template_digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000", "rank": 8, "alpha": 16.0, "use_rslora": false, "target_modules": ["q_proj"], "tensors": {"w": [8, 16]}, "files": {"adapter_config.json": {"size": 1, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}}, "lineage": {"job": "tenants/acme/jobs/one", "training_dataset": "tenants/acme/datasets/chats", "training_dataset_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "spec_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "parent_version": "", "code_version": "0", "imported_from": ""}, "evaluation": {"steps": 1, "training_loss": 1.0, "validation_loss": null, "base_validation_loss": null}}, "route": {"generation": 1, "versions": [{"version": "20260101T000000-committed-1", "weight": 100}], "reason": "publish", "actor": "tenants/acme/jobs/committed", "create_time": "2026-01-01T00:00:00Z", "nonce": "20260101T000000-committed-1"}}','',0,'',5);
INSERT INTO "jobs" VALUES('acme','queued','request-queued','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_model": "base", "training_dataset": "tenants/acme/datasets/chats", "validation_dataset": null, "validation_fraction": null, "adapter": "tenants/acme/adapters/voice", "lora": {"rank": 16, "alpha": 32.0, "target_modules": [], "use_rslora": false, "dropout": 0.0}, "hyperparameters": {"learning_rate": null, "epochs": null, "batch_tokens": null, "max_sequence_length": null, "warmup_ratio": null, "weight_decay": null, "seed": null, "evaluation_interval": null, "checkpoint_interval": null, "early_stopping_patience": null}, "promotion_policy": "ALWAYS", "labels": {}}','tenants/acme/adapters/voice','QUEUED','2026-11-23 14:48:32.942525',NULL,NULL,NULL,NULL,NULL,0,NULL,0,NULL,NULL,'',0,'',1);
CREATE INDEX ix_jobs_state_create_time ON jobs (state, create_time);
CREATE INDEX ix_jobs_tenant_create_time ON jobs (tenant, create_time);
COMMIT;

CREATE TABLE migrations (
  number INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  applied_at INTEGER NOT NULL
);

-- AUTOINCREMENT here and below: a number that was given away must never come back, a late writer might know it.
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  expires_at INTEGER NOT NULL,
  build TEXT NOT NULL,
  definitions TEXT NOT NULL,
  runtime TEXT NOT NULL,
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  process TEXT NOT NULL,
  started_at INTEGER NOT NULL
);

-- What commits look at comes first; values that may be large come last, so that they are not read past.
CREATE TABLE instances (
  key INTEGER PRIMARY KEY AUTOINCREMENT,
  execution_id INTEGER NOT NULL,
  session INTEGER,
  status INTEGER NOT NULL,
  run INTEGER NOT NULL,
  next_seq INTEGER NOT NULL,
  drained_seq INTEGER NOT NULL,
  wake_at INTEGER,
  inbox_seq INTEGER NOT NULL,
  inbox_seen INTEGER NOT NULL,
  recoveries INTEGER NOT NULL,
  priority INTEGER NOT NULL DEFAULT 0,
  parent INTEGER,
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  closed_at INTEGER,
  id TEXT NOT NULL UNIQUE,
  workflow TEXT NOT NULL,
  version TEXT NOT NULL,
  build TEXT,
  runtime TEXT,
  trace_context TEXT,
  custom_status BLOB,
  tags BLOB,
  waiting_on BLOB,
  reason BLOB,
  input BLOB NOT NULL
);

-- Claims probe one lane (definition and priority, or build) at a time, so that others' instances cost nothing.
CREATE INDEX instances_due ON instances (workflow, version, priority, wake_at)
  WHERE session IS NULL AND wake_at IS NOT NULL AND status < 2;

CREATE INDEX instances_blocked ON instances (workflow, version, build, priority DESC, wake_at)
  WHERE session IS NULL AND wake_at IS NOT NULL AND status = 3;

CREATE INDEX instances_owned ON instances (session)
  WHERE session IS NOT NULL;

CREATE INDEX instances_mail ON instances (session)
  WHERE inbox_seq > inbox_seen AND session IS NOT NULL;

CREATE TABLE history (
  key INTEGER NOT NULL,
  run INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  turn INTEGER NOT NULL,
  stamp INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  activity_id TEXT,
  payload BLOB,
  PRIMARY KEY (key, run, seq)
) WITHOUT ROWID;

CREATE TABLE messages (
  key INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  channel TEXT,
  message_id TEXT NOT NULL,
  sender TEXT,
  body BLOB NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (key, seq)
) WITHOUT ROWID;

-- Outlives the messages themselves: a post that is repeated after its message was read must do nothing.
CREATE TABLE deliveries (
  key INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (key, message_id)
) WITHOUT ROWID;

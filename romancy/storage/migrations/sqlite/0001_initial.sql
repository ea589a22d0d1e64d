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
  ties INTEGER NOT NULL DEFAULT 0, -- whether it has subscriptions, children or parents: its end concerns others
  parent INTEGER,
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  closed_at INTEGER,
  deadline INTEGER,
  id TEXT NOT NULL UNIQUE,
  workflow TEXT NOT NULL,
  version TEXT NOT NULL,
  build TEXT,
  runtime TEXT,
  begun_by TEXT, -- the build whose worker began the run; until something is recorded nothing else tells
  trace_context TEXT,
  custom_status BLOB,
  tags TEXT,
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

CREATE INDEX instances_custom_status ON instances (custom_status)
  WHERE custom_status IS NOT NULL;

-- What has not ended, for counting and listing it among any number of those that have.
CREATE INDEX instances_open ON instances (status, key)
  WHERE closed_at IS NULL;

CREATE INDEX instances_closed ON instances (closed_at)
  WHERE closed_at IS NOT NULL;

-- What instances are found by; the row holds the same tags for reading.
CREATE TABLE tags (
  key INTEGER NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (key, name)
) WITHOUT ROWID;

CREATE INDEX tags_value ON tags (name, value, key);

-- The runs that recur has closed and whose history is still there.
CREATE TABLE archives (
  key INTEGER NOT NULL,
  run INTEGER NOT NULL,
  closed_at INTEGER NOT NULL,
  PRIMARY KEY (key, run)
) WITHOUT ROWID;

CREATE INDEX archives_closed ON archives (closed_at);

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
  headers BLOB,
  sent_at INTEGER,   -- when it was published, if it was
  topic_seq INTEGER, -- its place in its competing topic, to which it returns if nobody reads it here
  PRIMARY KEY (key, seq)
) WITHOUT ROWID;

-- The latest details of attempts under way; an ended attempt's are in its event, or of no use any more.
CREATE TABLE heartbeats (
  key INTEGER NOT NULL,
  run INTEGER NOT NULL,
  activity_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  details BLOB NOT NULL,
  PRIMARY KEY (key, run, activity_id)
) WITHOUT ROWID;

-- Outlives the messages themselves: a post that is repeated after its message was read must do nothing.
CREATE TABLE deliveries (
  key INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (key, message_id)
) WITHOUT ROWID;

CREATE INDEX deliveries_at ON deliveries (at);

-- How each channel hands out messages. What a topic has to hand out, or those who wait for it, make it pending.
CREATE TABLE channels (
  name TEXT PRIMARY KEY,
  mode INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  handed_key INTEGER NOT NULL, -- up to which subscriber the first message of a broadcast topic has been handed out
  is_pending INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX channels_pending ON channels (name)
  WHERE is_pending = 1;

-- What has been published and not yet handed out.
CREATE TABLE topics (
  channel TEXT NOT NULL,
  seq INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  sender TEXT,
  headers BLOB,
  body BLOB NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (channel, seq)
) WITHOUT ROWID;

CREATE TABLE publications (
  channel TEXT NOT NULL,
  message_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (channel, message_id)
) WITHOUT ROWID;

CREATE INDEX publications_by_age ON publications (at);

CREATE TABLE subscriptions (
  channel TEXT NOT NULL,
  key INTEGER NOT NULL,
  mailbox TEXT NOT NULL,
  run INTEGER NOT NULL,
  since INTEGER NOT NULL,
  PRIMARY KEY (channel, key, mailbox)
) WITHOUT ROWID;

CREATE INDEX subscriptions_of_instance ON subscriptions (key);

-- The receives that wait for a message of a competing topic. One that is served stays until its receive is over.
CREATE TABLE waits (
  ticket INTEGER PRIMARY KEY AUTOINCREMENT,
  channel TEXT NOT NULL,
  key INTEGER NOT NULL,
  activity_id TEXT NOT NULL,
  mailbox TEXT NOT NULL,
  is_served INTEGER NOT NULL,
  UNIQUE (key, activity_id)
);

CREATE INDEX waits_open ON waits (channel, ticket)
  WHERE is_served = 0;

CREATE TABLE children (
  parent INTEGER NOT NULL,
  run INTEGER NOT NULL,
  activity_id TEXT NOT NULL,
  child INTEGER NOT NULL,
  policy TEXT NOT NULL,
  is_told INTEGER NOT NULL, -- whether the parent has heard of the child's end
  PRIMARY KEY (parent, run, activity_id)
) WITHOUT ROWID;

CREATE INDEX children_by_child ON children (child);

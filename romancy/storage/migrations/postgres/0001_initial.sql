CREATE TABLE migrations (
  number integer PRIMARY KEY,
  name text COLLATE "C" NOT NULL,
  applied_at timestamptz NOT NULL
);

CREATE TABLE sessions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  expires_at timestamptz NOT NULL,
  build text COLLATE "C" NOT NULL,
  definitions text COLLATE "C" NOT NULL,
  runtime text COLLATE "C" NOT NULL,
  host text COLLATE "C" NOT NULL,
  pid integer NOT NULL,
  process text COLLATE "C" NOT NULL,
  started_at timestamptz NOT NULL
);

-- What commits look at comes first; values that may be large come last, so that they are not read past.
CREATE TABLE instances (
  key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  execution_id bigint NOT NULL,
  session bigint,
  status smallint NOT NULL,
  run integer NOT NULL,
  next_seq integer NOT NULL,
  drained_seq integer NOT NULL,
  wake_at timestamptz,
  inbox_seq integer NOT NULL,
  inbox_seen integer NOT NULL,
  recoveries integer NOT NULL,
  priority smallint NOT NULL DEFAULT 0,
  ties smallint NOT NULL DEFAULT 0, -- whether it has subscriptions, children or parents: its end concerns others
  parent bigint,
  created_at timestamptz NOT NULL,
  started_at timestamptz,
  closed_at timestamptz,
  deadline timestamptz,
  id text COLLATE "C" NOT NULL UNIQUE,
  workflow text COLLATE "C" NOT NULL,
  version text COLLATE "C" NOT NULL,
  build text COLLATE "C",
  runtime text COLLATE "C",
  begun_by text COLLATE "C", -- the build whose worker began the run; until something is recorded nothing else tells
  trace_context text COLLATE "C",
  custom_status bytea,
  tags text COLLATE "C",
  waiting_on bytea,
  reason bytea,
  input bytea NOT NULL
) WITH (fillfactor = 70);

-- Claims probe one lane (definition and priority, or build) at a time, so that others' instances cost nothing.
CREATE INDEX instances_due ON instances (workflow, version, priority, wake_at)
  WHERE session IS NULL AND wake_at IS NOT NULL AND status < 2;

CREATE INDEX instances_blocked ON instances (workflow, version, build, priority DESC, wake_at)
  WHERE session IS NULL AND wake_at IS NOT NULL AND status = 3;

CREATE INDEX instances_owned ON instances (session)
  WHERE session IS NOT NULL;

CREATE INDEX instances_mail ON instances (session)
  WHERE inbox_seq > inbox_seen AND session IS NOT NULL;

CREATE INDEX instances_custom_status ON instances USING hash (custom_status)
  WHERE custom_status IS NOT NULL;

-- What has not ended, for counting and listing it among any number of those that have.
CREATE INDEX instances_open ON instances (status, key)
  WHERE closed_at IS NULL;

CREATE INDEX instances_closed ON instances (closed_at)
  WHERE closed_at IS NOT NULL;

-- What instances are found by; the row holds the same tags for reading.
CREATE TABLE tags (
  key bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  PRIMARY KEY (key, name)
);

CREATE INDEX tags_value ON tags (name, value, key);

-- The runs that recur has closed and whose history is still there.
CREATE TABLE archives (
  key bigint NOT NULL,
  run integer NOT NULL,
  closed_at timestamptz NOT NULL,
  PRIMARY KEY (key, run)
);

CREATE INDEX archives_closed ON archives (closed_at);

CREATE TABLE history (
  key bigint NOT NULL,
  run integer NOT NULL,
  seq integer NOT NULL,
  turn integer NOT NULL,
  stamp timestamptz NOT NULL,
  kind smallint NOT NULL,
  activity_id text COLLATE "C",
  payload bytea,
  PRIMARY KEY (key, run, seq)
);

CREATE TABLE messages (
  key bigint NOT NULL,
  seq integer NOT NULL,
  kind smallint NOT NULL,
  channel text COLLATE "C",
  message_id text COLLATE "C" NOT NULL,
  sender text COLLATE "C",
  body bytea NOT NULL,
  at timestamptz NOT NULL,
  headers bytea,
  sent_at timestamptz,   -- when it was published, if it was
  topic_seq bigint, -- its place in its competing topic, to which it returns if nobody reads it here
  PRIMARY KEY (key, seq)
);

-- The latest details of attempts under way; an ended attempt's are in its event, or of no use any more.
CREATE TABLE heartbeats (
  key bigint NOT NULL,
  run integer NOT NULL,
  activity_id text COLLATE "C" NOT NULL,
  attempt integer NOT NULL,
  details bytea NOT NULL,
  PRIMARY KEY (key, run, activity_id)
);

-- Outlives the messages themselves: a post that is repeated after its message was read must do nothing.
CREATE TABLE deliveries (
  key bigint NOT NULL,
  message_id text COLLATE "C" NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (key, message_id)
);

CREATE INDEX deliveries_at ON deliveries (at);

-- How each channel hands out messages. What a topic has to hand out, or those who wait for it, make it pending.
CREATE TABLE channels (
  name text COLLATE "C" PRIMARY KEY,
  mode smallint NOT NULL,
  last_seq bigint NOT NULL,
  handed_key bigint NOT NULL, -- up to which subscriber the first message of a broadcast topic has been handed out
  is_pending smallint NOT NULL
);

CREATE INDEX channels_pending ON channels (name)
  WHERE is_pending = 1;

-- What has been published and not yet handed out.
CREATE TABLE topics (
  channel text COLLATE "C" NOT NULL,
  seq bigint NOT NULL,
  message_id text COLLATE "C" NOT NULL,
  sender text COLLATE "C",
  headers bytea,
  body bytea NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (channel, seq)
);

CREATE TABLE publications (
  channel text COLLATE "C" NOT NULL,
  message_id text COLLATE "C" NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (channel, message_id)
);

CREATE INDEX publications_by_age ON publications (at);

CREATE TABLE subscriptions (
  channel text COLLATE "C" NOT NULL,
  key bigint NOT NULL,
  mailbox text COLLATE "C" NOT NULL,
  run integer NOT NULL,
  since bigint NOT NULL,
  PRIMARY KEY (channel, key, mailbox)
);

CREATE INDEX subscriptions_of_instance ON subscriptions (key);

-- The receives that wait for a message of a competing topic. One that is served stays until its receive is over.
CREATE TABLE waits (
  ticket bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel text COLLATE "C" NOT NULL,
  key bigint NOT NULL,
  activity_id text COLLATE "C" NOT NULL,
  mailbox text COLLATE "C" NOT NULL,
  is_served smallint NOT NULL,
  UNIQUE (key, activity_id)
);

CREATE INDEX waits_open ON waits (channel, ticket)
  WHERE is_served = 0;

CREATE TABLE children (
  parent bigint NOT NULL,
  run integer NOT NULL,
  activity_id text COLLATE "C" NOT NULL,
  child bigint NOT NULL,
  policy text COLLATE "C" NOT NULL,
  is_told smallint NOT NULL, -- whether the parent has heard of the child's end
  PRIMARY KEY (parent, run, activity_id)
);

CREATE INDEX children_by_child ON children (child);

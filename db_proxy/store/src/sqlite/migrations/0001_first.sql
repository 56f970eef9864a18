-- Numbers without a sign are kept bit by bit: 64-bit ones above 2^63 appear negative here.

CREATE TABLE progress (
    part           INTEGER PRIMARY KEY,
    epoch          INTEGER NOT NULL,
    owner          TEXT    NOT NULL,
    log_id         BLOB    NOT NULL,
    applied_offset INTEGER NOT NULL,
    applied_crc    INTEGER NOT NULL,
    fold_version   INTEGER NOT NULL
) STRICT;

-- id: the lower user's number * 2^32 + the higher user's, or the group's number. The lower user's
-- conversations are a range of ids; the higher user's have an index.
CREATE TABLE conversation (
    id              INTEGER PRIMARY KEY,
    higher_user     INTEGER,
    head            INTEGER NOT NULL,
    last_offset     INTEGER NOT NULL,
    last_message_ms INTEGER NOT NULL,
    group_name      TEXT,
    group_avatar    TEXT,
    group_creator   INTEGER,
    group_kind      INTEGER,
    group_version   INTEGER
) STRICT;

CREATE INDEX conversation_higher_user ON conversation (higher_user) WHERE higher_user IS NOT NULL;

-- A page of history is one range of the table itself.
CREATE TABLE message (
    conversation  INTEGER NOT NULL,
    msg_id        INTEGER NOT NULL,
    sender        INTEGER NOT NULL,
    client_msg_id BLOB    NOT NULL,
    log_offset    INTEGER NOT NULL,
    timestamp_ms  INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    body          BLOB    NOT NULL,
    PRIMARY KEY (conversation, msg_id)
) STRICT, WITHOUT ROWID;

-- Not unique: the fold decides what is a repetition, the store only looks it up.
CREATE INDEX message_client_msg_id ON message (sender, client_msg_id);

CREATE TABLE member (
    group_id     INTEGER NOT NULL,
    user_id      INTEGER NOT NULL,
    join_msg_id  INTEGER NOT NULL,
    leave_msg_id INTEGER,
    PRIMARY KEY (group_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX member_user ON member (user_id);

CREATE TABLE mark (
    conversation   INTEGER NOT NULL,
    user_id        INTEGER NOT NULL,
    read_msg_id    INTEGER NOT NULL,
    own_up_to_read INTEGER NOT NULL,
    own_total      INTEGER NOT NULL,
    removed_at     INTEGER NOT NULL,
    shield         INTEGER NOT NULL,
    PRIMARY KEY (conversation, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE unreadable (
    log_offset INTEGER PRIMARY KEY,
    payload    BLOB NOT NULL
) STRICT;

CREATE TABLE user (
    id            INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    password_hash TEXT    NOT NULL,
    nick          TEXT    NOT NULL,
    gender        INTEGER NOT NULL,
    avatar        TEXT    NOT NULL,
    department    INTEGER NOT NULL,
    email         TEXT    NOT NULL,
    tel           TEXT    NOT NULL,
    domain        TEXT    NOT NULL,
    status        INTEGER NOT NULL,
    sign          TEXT    NOT NULL,
    stamp         INTEGER NOT NULL,
    push_shield   INTEGER NOT NULL
) STRICT;

CREATE INDEX user_stamp ON user (stamp);

CREATE TABLE department (
    id       INTEGER PRIMARY KEY,
    priority INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    parent   INTEGER NOT NULL,
    status   INTEGER NOT NULL,
    stamp    INTEGER NOT NULL
) STRICT;

INSERT INTO department VALUES (1, 0, 'All', 0, 0, 1);

CREATE TABLE device_token (
    user_id     INTEGER NOT NULL,
    client_type INTEGER NOT NULL,
    token       TEXT    NOT NULL,
    PRIMARY KEY (user_id, client_type)
) STRICT, WITHOUT ROWID;

CREATE INDEX device_token_token ON device_token (token);

CREATE TABLE counter (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counter VALUES ('group', 0);

-- Group numbers that somebody chose, ahead of the counter.
CREATE TABLE wanted_group (
    id INTEGER PRIMARY KEY
) STRICT;

-- The fold's side, in every database of the list of shards.
--
-- Each statement may run twice: data definition is not part of a transaction, so that a migration
-- that was cut short runs its last statement again. Statements end at a semicolon at a line's end.
--
-- Texts and bodies are binary columns: they compare and come back byte by byte on every server.
-- (Collations that do are called differently by MySQL and MariaDB.)

-- One row for each partition.
CREATE TABLE IF NOT EXISTS progress (
    part           INT UNSIGNED    NOT NULL PRIMARY KEY,
    epoch          BIGINT UNSIGNED NOT NULL,
    owner          BLOB            NOT NULL,
    log_id         BINARY(16)      NOT NULL,
    applied_offset BIGINT UNSIGNED NOT NULL,
    applied_crc    INT UNSIGNED    NOT NULL,
    fold_version   INT UNSIGNED    NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- id: the lower user's number * 2^32 + the higher user's, or the group's number. The lower user's
-- conversations are a range of ids; the higher user's have an index. An index ends with the
-- primary key, so that the one by partition also has the order of ids.
CREATE TABLE IF NOT EXISTS conversation (
    id              BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    part            INT UNSIGNED    NOT NULL,
    higher_user     INT UNSIGNED,
    head            INT UNSIGNED    NOT NULL,
    last_offset     BIGINT UNSIGNED NOT NULL,
    last_message_ms BIGINT UNSIGNED NOT NULL,
    group_name      MEDIUMBLOB,
    group_avatar    MEDIUMBLOB,
    group_creator   INT UNSIGNED,
    group_kind      INT UNSIGNED,
    group_version   INT UNSIGNED,
    KEY conversation_part (part),
    KEY conversation_higher_user (higher_user)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- A page of history is one range of the table itself. The id of the client is no unique key: the
-- fold decides what is a repetition, the store only looks it up.
CREATE TABLE IF NOT EXISTS message (
    conversation  BIGINT UNSIGNED NOT NULL,
    msg_id        INT UNSIGNED    NOT NULL,
    sender        INT UNSIGNED    NOT NULL,
    client_msg_id BINARY(16)      NOT NULL,
    log_offset    BIGINT UNSIGNED NOT NULL,
    timestamp_ms  BIGINT UNSIGNED NOT NULL,
    kind          INT UNSIGNED    NOT NULL,
    body          LONGBLOB        NOT NULL,
    PRIMARY KEY (conversation, msg_id),
    KEY message_client_msg_id (sender, client_msg_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS `member` (
    group_id     INT UNSIGNED NOT NULL,
    user_id      INT UNSIGNED NOT NULL,
    join_msg_id  INT UNSIGNED NOT NULL,
    leave_msg_id INT UNSIGNED,
    PRIMARY KEY (group_id, user_id),
    KEY member_user (user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS mark (
    conversation   BIGINT UNSIGNED  NOT NULL,
    user_id        INT UNSIGNED     NOT NULL,
    read_msg_id    INT UNSIGNED     NOT NULL,
    own_up_to_read INT UNSIGNED     NOT NULL,
    own_total      INT UNSIGNED     NOT NULL,
    removed_at     INT UNSIGNED     NOT NULL,
    shield         TINYINT UNSIGNED NOT NULL,
    PRIMARY KEY (conversation, user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS unreadable (
    part       INT UNSIGNED    NOT NULL,
    log_offset BIGINT UNSIGNED NOT NULL,
    payload    LONGBLOB        NOT NULL,
    PRIMARY KEY (part, log_offset)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

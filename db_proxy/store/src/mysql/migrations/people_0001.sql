-- The login side, in the database of logins: the first shard, if none is named.
--
-- Each statement may run twice, and ends at a semicolon at a line's end: see fold_0001.sql.

-- A name is exact: "Alice", "alice" and "Alice " are three users.
CREATE TABLE IF NOT EXISTS user (
    id            INT UNSIGNED     NOT NULL PRIMARY KEY,
    name          VARBINARY(1024)  NOT NULL,
    password_hash MEDIUMBLOB       NOT NULL,
    nick          MEDIUMBLOB       NOT NULL,
    gender        INT UNSIGNED     NOT NULL,
    avatar        MEDIUMBLOB       NOT NULL,
    department    INT UNSIGNED     NOT NULL,
    email         MEDIUMBLOB       NOT NULL,
    tel           MEDIUMBLOB       NOT NULL,
    domain        MEDIUMBLOB       NOT NULL,
    status        INT UNSIGNED     NOT NULL,
    sign          MEDIUMBLOB       NOT NULL,
    stamp         INT UNSIGNED     NOT NULL,
    push_shield   TINYINT UNSIGNED NOT NULL,
    UNIQUE KEY user_name (name),
    KEY user_stamp (stamp)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS department (
    id       INT UNSIGNED NOT NULL PRIMARY KEY,
    priority INT UNSIGNED NOT NULL,
    name     MEDIUMBLOB   NOT NULL,
    parent   INT UNSIGNED NOT NULL,
    status   INT UNSIGNED NOT NULL,
    stamp    INT UNSIGNED NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT INTO department (id, priority, name, parent, status, stamp) VALUES (1, 0, 'All', 0, 0, 1)
    ON DUPLICATE KEY UPDATE id = id;

-- A token has no bound that we know of; its first bytes tell it from nearly every other.
CREATE TABLE IF NOT EXISTS device_token (
    user_id     INT UNSIGNED NOT NULL,
    client_type INT UNSIGNED NOT NULL,
    token       MEDIUMBLOB   NOT NULL,
    PRIMARY KEY (user_id, client_type),
    KEY device_token_token (token(255))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- 'group': the last group number given out. The rows are also what writers take turns by: 'group'
-- for group numbers, 'user' for users and their stamps, 'token' for tokens of phones.
CREATE TABLE IF NOT EXISTS counter (
    name  VARBINARY(32) NOT NULL PRIMARY KEY,
    value INT UNSIGNED  NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT INTO counter (name, value) VALUES ('group', 0), ('user', 0), ('token', 0)
    ON DUPLICATE KEY UPDATE value = value;

-- Group numbers that somebody chose, ahead of the counter.
CREATE TABLE IF NOT EXISTS wanted_group (
    id INT UNSIGNED NOT NULL PRIMARY KEY
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- What follows logins: families of resume tokens, tickets, and what ended before its time. Hashes only.
-- The row 'token' of `counter` has the number of the newest revocation.
--
-- Each statement may run twice, and ends at a semicolon at a line's end: see fold_0001.sql.

CREATE TABLE IF NOT EXISTS token_family (
    id          BINARY(16)      NOT NULL PRIMARY KEY,
    user_id     INT UNSIGNED    NOT NULL,
    client_type INT UNSIGNED    NOT NULL,
    current     BINARY(32)      NOT NULL,
    next        BINARY(32),
    replaced    VARBINARY(1024) NOT NULL,
    used_s      BIGINT UNSIGNED NOT NULL,
    expires_s   BIGINT UNSIGNED NOT NULL,
    KEY token_family_user (user_id, used_s),
    KEY token_family_expires (expires_s)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS ticket (
    hash        BINARY(32)      NOT NULL PRIMARY KEY,
    user_id     INT UNSIGNED    NOT NULL,
    client_type INT UNSIGNED    NOT NULL,
    expires_s   BIGINT UNSIGNED NOT NULL,
    KEY ticket_user (user_id),
    KEY ticket_expires (expires_s)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- `family` is empty if all of the user's ended.
CREATE TABLE IF NOT EXISTS revocation (
    number  INT UNSIGNED    NOT NULL PRIMARY KEY,
    user_id INT UNSIGNED    NOT NULL,
    family  BINARY(16),
    noted_s BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

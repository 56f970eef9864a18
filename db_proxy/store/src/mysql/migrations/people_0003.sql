-- Keys of programs that use the HTTP API. `hash` is that of the secret part; `scopes` has one bit for each.
--
-- Each statement may run twice, and ends at a semicolon at a line's end: see fold_0001.sql.

CREATE TABLE IF NOT EXISTS api_key (
    name      VARBINARY(64)   NOT NULL PRIMARY KEY,
    id        BINARY(8)       NOT NULL,
    hash      BINARY(32)      NOT NULL,
    scopes    INT UNSIGNED    NOT NULL,
    rate      INT UNSIGNED    NOT NULL,
    made_s    BIGINT UNSIGNED NOT NULL,
    expires_s BIGINT UNSIGNED NOT NULL,
    used_s    BIGINT UNSIGNED NOT NULL,
    UNIQUE KEY api_key_id (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

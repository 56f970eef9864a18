-- URLs of other systems that are told of events. `secret` signs them, and so is kept as it is.
--
-- Each statement may run twice, and ends at a semicolon at a line's end: see fold_0001.sql.

CREATE TABLE IF NOT EXISTS webhook (
    number      INT UNSIGNED    NOT NULL PRIMARY KEY,
    name        VARBINARY(64)   NOT NULL,
    url         VARBINARY(2048) NOT NULL,
    events      INT UNSIGNED    NOT NULL,
    state       INT UNSIGNED    NOT NULL,
    secret      VARBINARY(128)  NOT NULL,
    old_secret  VARBINARY(128)  NOT NULL,
    old_until_s BIGINT UNSIGNED NOT NULL,
    made_ms     BIGINT UNSIGNED NOT NULL,
    from_ms     BIGINT UNSIGNED NOT NULL,
    begun_ms    BIGINT UNSIGNED NOT NULL,
    run         INT UNSIGNED    NOT NULL,
    version     BIGINT UNSIGNED NOT NULL,
    failures    BIGINT UNSIGNED NOT NULL,
    UNIQUE KEY webhook_name (name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Events that were given up; `number` counts those of each webhook.
CREATE TABLE IF NOT EXISTS webhook_failure (
    webhook     INT UNSIGNED    NOT NULL,
    number      BIGINT UNSIGNED NOT NULL,
    event_id    VARBINARY(128)  NOT NULL,
    event_type  VARBINARY(64)   NOT NULL,
    happened_ms BIGINT UNSIGNED NOT NULL,
    given_up_ms BIGINT UNSIGNED NOT NULL,
    status      INT UNSIGNED    NOT NULL,
    tries       INT UNSIGNED    NOT NULL,
    PRIMARY KEY (webhook, number),
    UNIQUE KEY webhook_failure_event (webhook, event_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The number of the newest webhook.
INSERT INTO counter (name, value) VALUES ('webhook', 0)
    ON DUPLICATE KEY UPDATE value = value;

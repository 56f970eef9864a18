-- URLs of other systems that are told of events. `secret` signs them, and so is kept as it is.
CREATE TABLE webhook (
    number      INTEGER NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    url         TEXT    NOT NULL,
    events      INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    secret      TEXT    NOT NULL,
    old_secret  TEXT    NOT NULL,
    old_until_s INTEGER NOT NULL,
    made_ms     INTEGER NOT NULL,
    from_ms     INTEGER NOT NULL,
    begun_ms    INTEGER NOT NULL,
    run         INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    failures    INTEGER NOT NULL
) STRICT;

-- Events that were given up; `number` counts those of each webhook.
CREATE TABLE webhook_failure (
    webhook     INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    event_id    TEXT    NOT NULL,
    event_type  TEXT    NOT NULL,
    happened_ms INTEGER NOT NULL,
    given_up_ms INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    tries       INTEGER NOT NULL,
    PRIMARY KEY (webhook, number),
    UNIQUE (webhook, event_id)
) STRICT, WITHOUT ROWID;

-- The number of the newest webhook.
INSERT INTO counter VALUES ('webhook', 0);

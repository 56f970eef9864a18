-- What follows logins: families of resume tokens, tickets, and what ended before its time. Hashes only.
CREATE TABLE token_family (
    id          BLOB    PRIMARY KEY,
    user_id     INTEGER NOT NULL,
    client_type INTEGER NOT NULL,
    current     BLOB    NOT NULL,
    next        BLOB,
    replaced    BLOB    NOT NULL,
    used_s      INTEGER NOT NULL,
    expires_s   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX token_family_user ON token_family (user_id, used_s);
CREATE INDEX token_family_expires ON token_family (expires_s);

CREATE TABLE ticket (
    hash        BLOB    PRIMARY KEY,
    user_id     INTEGER NOT NULL,
    client_type INTEGER NOT NULL,
    expires_s   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX ticket_user ON ticket (user_id);
CREATE INDEX ticket_expires ON ticket (expires_s);

-- `family` is empty if all of the user's ended.
CREATE TABLE revocation (
    number  INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL,
    family  BLOB,
    noted_s INTEGER NOT NULL
) STRICT;

-- The number of the newest revocation.
INSERT INTO counter VALUES ('token', 0);

-- Keys of programs that use the HTTP API. `hash` is that of the secret part; `scopes` has one bit for each.
CREATE TABLE api_key (
    name      TEXT    NOT NULL PRIMARY KEY,
    id        BLOB    NOT NULL UNIQUE,
    hash      BLOB    NOT NULL,
    scopes    INTEGER NOT NULL,
    rate      INTEGER NOT NULL,
    made_s    INTEGER NOT NULL,
    expires_s INTEGER NOT NULL,
    used_s    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

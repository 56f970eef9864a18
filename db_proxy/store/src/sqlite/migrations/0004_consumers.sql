-- How far each consumer of the log is. `epoch` is the one in force behind that record.
CREATE TABLE consumer (
    part       INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    log_id     BLOB    NOT NULL,
    log_offset INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    PRIMARY KEY (part, name)
) STRICT, WITHOUT ROWID;

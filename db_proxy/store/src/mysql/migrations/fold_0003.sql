-- How far each consumer of the log is. `epoch` is the one in force behind that record.
CREATE TABLE IF NOT EXISTS consumer (
    part       INT UNSIGNED    NOT NULL,
    name       VARBINARY(64)   NOT NULL,
    log_id     BINARY(16)      NOT NULL,
    log_offset BIGINT UNSIGNED NOT NULL,
    epoch      BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (part, name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

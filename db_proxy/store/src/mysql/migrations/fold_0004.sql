-- Messages whose body a hook has changed before they were admitted, with the checksum of their type and of the
-- body that was sent: a repeat comes with that body. Few messages are here.
--
-- Each statement may run twice, and ends at a semicolon at a line's end: see fold_0001.sql.

CREATE TABLE IF NOT EXISTS changed_message (
    conversation BIGINT UNSIGNED NOT NULL,
    msg_id       INT UNSIGNED    NOT NULL,
    sent_crc     INT UNSIGNED    NOT NULL,
    PRIMARY KEY (conversation, msg_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Messages whose body a hook has changed before they were admitted, with the checksum of their type and of the
-- body that was sent: a repeat comes with that body. Few messages are here.
CREATE TABLE changed_message (
    conversation INTEGER NOT NULL,
    msg_id       INTEGER NOT NULL,
    sent_crc     INTEGER NOT NULL,
    PRIMARY KEY (conversation, msg_id)
) STRICT, WITHOUT ROWID;

-- Everybody has left, and nobody can be added any more. Empty for two users, and for groups that were
-- last written before there was this column: they are not deleted.
ALTER TABLE conversation ADD COLUMN group_deleted TINYINT UNSIGNED;

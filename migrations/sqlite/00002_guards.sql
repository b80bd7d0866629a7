-- +goose Up

-- The last guard of two rules: no password that may be on a device is ever lost, and what was audited stays.
-- +goose StatementBegin
CREATE TRIGGER credentials_kept BEFORE DELETE ON credentials
BEGIN SELECT RAISE(ABORT, 'rows of credentials are never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_kept_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed or deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_kept_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed or deleted'); END;
-- +goose StatementEnd

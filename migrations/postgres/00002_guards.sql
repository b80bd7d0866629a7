-- +goose Up

-- The last guard of two rules: no password that may be on a device is ever lost, and what was audited stays.
-- +goose StatementBegin
CREATE FUNCTION provisiond_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
CREATE TRIGGER credentials_kept BEFORE DELETE ON credentials FOR EACH ROW EXECUTE FUNCTION provisiond_append_only();
CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION provisiond_append_only();

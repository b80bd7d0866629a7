-- +goose Up

-- The guard of schema 2, to the letter of its rule: no password that may be on a device is ever lost. One that was made for a
-- set-up whose commit was never on its way, and that firmware does not keep without one, may go with the row of the stranger it
-- was made for, which says first that it goes.
-- +goose StatementBegin
CREATE FUNCTION provisiond_credentials_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'candidate' AND OLD.run_id <> 0 AND OLD.setup IN (0, OLD.generation) AND OLD.committed_at IS NULL AND OLD.activated_at IS NULL
        AND (OLD.sent_at IS NULL OR OLD.kind = 'admin' AND OLD.setup <> 0)
        AND EXISTS (SELECT 1 FROM devices d WHERE d.uuid = OLD.uuid AND d.health = 'forgotten' AND d.generation = 0 AND d.provisioned_at IS NULL) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'rows of credentials are never changed or deleted';
END $$;
-- +goose StatementEnd
DROP TRIGGER credentials_kept ON credentials;
CREATE TRIGGER credentials_kept BEFORE DELETE ON credentials FOR EACH ROW EXECUTE FUNCTION provisiond_credentials_kept();

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;

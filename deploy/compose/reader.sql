-- The role that Grafana reads with. It sees what the panels show and nothing
-- else: no credential, no key, no token. The server makes its tables later, so the
-- right to read is given as each of them appears.
CREATE ROLE grafana LOGIN PASSWORD 'tour';
GRANT USAGE ON SCHEMA public TO grafana;

CREATE FUNCTION grant_to_grafana() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
	made record;
BEGIN
	FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands()
		WHERE object_type IN ('table', 'view') AND object_identity IN (
			'public.v_device', 'public.v_run', 'public.v_failure_daily', 'public.v_certificate', 'public.v_coverage',
			'public.run_steps', 'public.events', 'public.trust_tables', 'public.trust_hashes')
	LOOP
		EXECUTE format('GRANT SELECT ON %s TO grafana', made.object_identity);
	END LOOP;
	FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands()
		WHERE object_type = 'table' AND object_identity = 'public.devices'
	LOOP
		EXECUTE 'GRANT SELECT (uuid, lifecycle, trust_table) ON public.devices TO grafana';
	END LOOP;
END $$;

CREATE EVENT TRIGGER grant_to_grafana ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'CREATE VIEW') EXECUTE FUNCTION grant_to_grafana();

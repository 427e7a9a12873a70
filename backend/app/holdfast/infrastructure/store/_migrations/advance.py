"""The short way of `advance` in PostgreSQL: one function, so that it is one message and one commit."""

from __future__ import annotations

# It locks the job, then the steps, as everything else does. What is not as it must be ends it by an error, which undoes
# what it did; then the long way is taken.
ADVANCE = """
CREATE OR REPLACE FUNCTION {schema}.advance(
    a_worker text, a_job text, a_time float8,
    ended bigint[], ended_fences bigint[], results bytea[], took float8[], a_positions text,
    begun_now bigint[], begun_fences bigint[]
) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    ends constant integer := cardinality(ended);
    begins constant integer := cardinality(begun_now);
    held record;
    base bigint;
    tried integer;
    attempts integer[] := '{{}}';
BEGIN
    UPDATE {schema}.jobs SET running = running - ends, succeeded = succeeded + ends,
        in_flight = in_flight + begins - ends, last_event = last_event + least(ends, 1),
        changed_at = greatest(changed_at, coalesce(a_time, extract(epoch FROM clock_timestamp())))
    WHERE id = a_job AND state = 'running' AND ready AND plain AND NOT halted AND pending + running > ends
        AND (begins = 0 OR ((concurrency IS NULL OR in_flight + begins - ends <= concurrency)
            AND NOT EXISTS (SELECT 1 FROM {schema}.limits WHERE name = 'concurrency')))
    RETURNING no, last_event, changed_at, write_back INTO held;
    IF NOT FOUND OR NOT EXISTS (
        SELECT 1 FROM {schema}.workers WHERE id = a_worker AND expires_at > held.changed_at
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'HF001', MESSAGE = 'not plain';
    END IF;
    base := held.no << 32;
    FOR place IN 1 .. ends LOOP
        UPDATE {schema}.steps s SET state = 'succeeded', worker = NULL, error = '', finished_at = held.changed_at,
            result = results[place]
        WHERE s.id = base + ended[place] AND s.fence = ended_fences[place] AND s.worker = a_worker
            AND s.state = 'running' AND s.begun
        RETURNING s.attempts INTO tried;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'HF001', MESSAGE = 'not plain';
        END IF;
        attempts := attempts || tried;
    END LOOP;
    FOR place IN 1 .. begins LOOP
        UPDATE {schema}.steps s SET begun = TRUE, attempts = s.attempts + 1, started_at = held.changed_at
        WHERE s.id = base + begun_now[place] AND s.fence = begun_fences[place] AND s.worker = a_worker
            AND s.state = 'running' AND NOT s.begun;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'HF001', MESSAGE = 'not plain';
        END IF;
    END LOOP;
    IF ends > 0 THEN
        INSERT INTO {schema}.events (id, at, kind, state, positions, data) VALUES (
            base + held.last_event, held.changed_at, 'step', 'succeeded', a_positions,
            json_build_object('worker', a_worker, 'attempt', attempts, 'took', took)
        );
        IF held.write_back THEN
            INSERT INTO {schema}.outbox (id) SELECT base + ended[place] FROM generate_series(1, ends) place
            WHERE results[place] IS NOT NULL;
        END IF;
    END IF;
END
$body$
"""

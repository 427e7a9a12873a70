"""The short way of `claim` in PostgreSQL: one function, so that it is one message."""

from __future__ import annotations

# It keeps the worker from being recovered meanwhile, locks the job, then the steps, as everything else does. Where
# something is not as it must be, it changes and returns nothing; then the long way is taken. Every 500 steps it looks
# where the pending ones begin.
CLAIM = """
CREATE OR REPLACE FUNCTION {schema}.claim(
    a_worker text, a_limit integer, a_job text, a_handlers text[], a_time float8, a_data text
) RETURNS TABLE (
    id bigint, key text, line integer, payload bytea, fence integer, attempts integer, due_at float8, result bytea,
    error text, must_succeed boolean, timeout float8, target text, history text
) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    at constant float8 := coalesce(a_time, extract(epoch FROM clock_timestamp()));
    chosen bigint;
    held record;
    picked bigint[];
    many integer;
    base bigint;
    last integer;
    start integer;
    positions text;
BEGIN
    PERFORM 1 FROM {schema}.workers w WHERE w.id = a_worker AND expires_at > at FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF a_job IS NOT NULL THEN
        SELECT no INTO chosen FROM {schema}.jobs j
        WHERE j.id = a_job AND (cardinality(a_handlers) = 0 OR handler = ANY (a_handlers));
    ELSIF cardinality(a_handlers) > 0 THEN
        SELECT no INTO chosen FROM {schema}.jobs WHERE open AND handler = ANY (a_handlers)
        ORDER BY priority, no LIMIT 1;
    ELSE
        SELECT no INTO chosen FROM {schema}.jobs WHERE open ORDER BY priority, no LIMIT 1;
    END IF;
    SELECT no, coalesce(concurrency - in_flight, a_limit) AS room, pending_from, due_from,
        greatest(changed_at, at) AS at, last_event INTO held
    FROM {schema}.jobs j
    WHERE no = chosen AND open AND plain AND state = 'running' AND ready AND NOT halted
        AND (concurrency IS NULL OR in_flight < concurrency)
    FOR UPDATE OF j;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- A statement of its own: what was committed while this waited for the job counts.
    IF EXISTS (
        SELECT 1 FROM {schema}.steps s WHERE s.job = held.no AND s.state = 'pending' AND s.waits > 0
        AND s.due_at > 0 AND s.due_at >= held.due_from AND s.due_at <= at
    ) THEN
        RETURN;
    END IF;
    start := held.pending_from;
    picked := ARRAY(
        SELECT s.id FROM {schema}.steps s
        WHERE s.job = held.no AND s.waits = 0 AND s.position >= start AND s.state = 'pending'
        ORDER BY s.position LIMIT least(held.room, a_limit)
    );
    many := cardinality(picked);
    IF many = 0 THEN
        RETURN;
    END IF;
    RETURN QUERY
        UPDATE {schema}.steps s SET state = 'running', worker = a_worker, fence = s.fence + 1
        WHERE s.id = ANY (picked)
        RETURNING s.id, s.key, s.line, s.payload, s.fence, s.attempts, s.due_at, s.result, s.error, s.must_succeed,
            s.timeout, s.target, s.history;
    base := held.no << 32;
    last := picked[many] - base;
    IF picked[many] - picked[1] = many - 1 THEN
        positions := CASE WHEN many = 1 THEN '[' || last || ']'
            ELSE '[[' || picked[1] - base || ',' || last || ']]' END;
    ELSE
        SELECT '[' || string_agg(
            CASE WHEN low = high THEN low::text ELSE '[' || low || ',' || high || ']' END, ',' ORDER BY low
        ) || ']' INTO positions
        FROM (
            SELECT min(one) - base AS low, max(one) - base AS high
            FROM (SELECT one, one - row_number() OVER (ORDER BY one) AS run FROM unnest(picked) one) ones
            GROUP BY run
        ) runs;
    END IF;
    IF last >= start + 500 THEN
        start := least(last + 1, coalesce((
            SELECT s.position FROM {schema}.steps s
            WHERE s.job = held.no AND s.waits = 1 AND s.position >= start AND s.state = 'pending'
            ORDER BY s.position LIMIT 1
        ), last + 1));
    END IF;
    UPDATE {schema}.jobs SET pending = pending - many, running = running + many, last_event = last_event + 1,
        changed_at = held.at, due_from = at, open = pending > many, pending_from = start
    WHERE no = held.no;
    INSERT INTO {schema}.events (id, at, kind, state, positions, data)
    VALUES (base + held.last_event + 1, held.at, 'step', 'running', positions, a_data);
END
$body$
"""

"""The transitions of a shared breaker, as one Lua script: atomic, and on the server's clock."""

# KEYS: the breaker (a hash); pybreaker's four, if they are mirrored. One key needs no hash tag in a cluster.
# ARGV: what to do, the generation that the caller knows, whether to mirror, `open_for` (ms), then the operation's own.
# Returns: state, generation, ms left of an open one, failed rounds so far, whether a place was granted.
#
# A place that is taken is a field of the hash, named by the caller: a command that is sent twice, because its answer
# was lost, takes one place. What Redis knows of an older generation than a caller, it has lost: a failover went back.
SCRIPT = """
local key, op, known, mirror, open_for = KEYS[1], ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local DAY = 86400000
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)
local held = redis.call('HMGET', key, 'state', 'gen', 'until', 'wait', 'rounds', 'ok', 'failed', 'slow', 'mirrored')
local state, gen = held[1] or '', held[2] or ''
local till, lasts, rounds = tonumber(held[3] or 0), tonumber(held[4] or 0), tonumber(held[5] or 0)
local ok, failed, slow = tonumber(held[6] or 0), tonumber(held[7] or 0), tonumber(held[8] or 0)
local mirrored = held[9] or ''

local function reflect(opened, failures)
  redis.call('MSET', KEYS[2], state, KEYS[3], failures, KEYS[4], ok)
  if opened then redis.call('SET', KEYS[5], opened) end
  redis.call('HSET', key, 'mirrored', state)
  mirrored = state
end

local function end_at(at)
  till = at
  redis.call('HSET', key, 'until', string.format('%.0f', till))
end

local function places(keep)
  local taken, all = 0, redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    if string.sub(all[at], 1, 6) == 'lease:' then
      local ends, lasts_for = string.match(all[at + 1], '^(%d+) (%d+)$')
      local left = (tonumber(ends) or 0) - now
      if keep and left > 0 and left <= tonumber(lasts_for) then
        taken = taken + 1
      else
        redis.call('HDEL', key, all[at])
      end
    end
  end
  return taken
end

local function move(new, wait, k, failures, opened)
  state, rounds, lasts = new, k, wait
  ok, failed, slow = 0, 0, 0
  gen = string.format('%.0f', math.max(micros, (tonumber(gen) or 0) + 1, (tonumber(known) or 0) + 1))
  redis.call('HSET', key, 'state', state, 'gen', gen, 'wait', wait, 'rounds', rounds, 'ok', 0, 'failed', 0, 'slow', 0)
  end_at(now + wait)
  places(false)
  redis.call('PEXPIRE', key, string.format('%.0f', wait + DAY))
  if mirror then reflect(new == 'open' and (opened or time[1]), failures) end
end

local function follow()
  local theirs = redis.call('GET', KEYS[2])
  if not theirs or theirs == mirrored then return end
  if theirs == 'open' and state ~= 'open' then
    local opened = tonumber(redis.call('GET', KEYS[5])) or tonumber(time[1])
    local wait = math.max(0, math.min(open_for, opened * 1000 + open_for - now))
    move('open', wait, rounds, redis.call('GET', KEYS[3]) or 0, string.format('%.0f', opened))
  elseif theirs == 'closed' and (state == 'open' or state == 'half-open') then
    move('closed', 0, 0, 0)
  elseif state ~= '' then
    redis.call('HSET', key, 'mirrored', theirs)
  end
end

local granted = 0
if mirror then follow() end
-- The server's clock was set back: what is open lasts no longer than it was to last.
if state == 'open' and till - now > lasts then end_at(now + lasts) end
local lost = known ~= '' and gen ~= '' and tonumber(known) > tonumber(gen)
local current = known == gen or lost
if op == 'open' then
  local wait, k, failures = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
  local unknown = known == '' and state == 'closed'
  if state == '' or unknown or lost or (current and state ~= 'open') then move('open', wait, k, failures) end
elseif op == 'close' then
  local over = state == 'half-open' or (state == 'open' and now >= till)
  if (current and over) or (lost and state ~= 'closed') then move('closed', 0, rounds, 0) end
elseif op == 'force' then
  move(ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), 0)
elseif op == 'probe' then
  local lease, held_for, most = 'lease:' .. ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
  if state == '' or (state == 'open' and now >= till) or (state == 'closed' and current) then
    move('half-open', 0, rounds, 0)
  end
  if state == 'half-open' then
    local taken = places(true)
    if redis.call('HEXISTS', key, lease) == 1 then
      granted = 1
    elseif taken + ok + failed < most then
      redis.call('HSET', key, lease, string.format('%.0f %.0f', now + held_for, held_for))
      redis.call('PEXPIRE', key, string.format('%.0f', held_for + DAY))
      granted = 1
    end
  end
elseif op == 'return' then
  redis.call('HDEL', key, 'lease:' .. ARGV[5])
elseif op == 'settle' then
  local failures, late = tonumber(ARGV[6]), tonumber(ARGV[7])
  local most, allowed, allowed_slow = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
  if state == 'half-open' and redis.call('HDEL', key, 'lease:' .. ARGV[5]) == 1 then
    ok, failed, slow = ok + 1 - failures, failed + failures, slow + late
    redis.call('HSET', key, 'ok', ok, 'failed', failed, 'slow', slow)
    if failed / most >= allowed or slow / most >= allowed_slow then
      move('open', tonumber(ARGV[11]), rounds + 1, failed)
    elseif (most - ok) / most < allowed and (most - ok - failed + slow) / most < allowed_slow then
      move('closed', 0, rounds, 0)
    elseif mirror then
      reflect(false, failed)
    end
  end
end
local left = 0
if state == 'open' then left = math.max(0, till - now) end
return {state, gen, left, rounds, granted}
"""

"""The transitions of a shared breaker, as one Lua script: atomic, and on the server's clock."""

# KEYS: the breaker (a hash), the places that are taken (a sorted set: lease by end), pybreaker's four.
# ARGV: what to do, the generation that the caller knows, whether to mirror, `open_for` (ms), then the operation's own.
# Returns: state, generation, ms left of an open one, failed rounds so far, lease ("0": none granted).
SCRIPT = """
local key, places = KEYS[1], KEYS[2]
local op, known, mirror, open_for = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local DAY = 86400000
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)
local held = redis.call('HMGET', key, 'state', 'gen', 'until', 'rounds', 'ok', 'failed', 'slow', 'mirrored')
local state, gen = held[1] or '', held[2] or ''
local till, rounds = tonumber(held[3] or 0), tonumber(held[4] or 0)
local ok, failed, slow = tonumber(held[5] or 0), tonumber(held[6] or 0), tonumber(held[7] or 0)
local mirrored = held[8] or ''

local function reflect(opened, failures)
  redis.call('MSET', KEYS[3], state, KEYS[4], failures, KEYS[5], ok)
  if opened then redis.call('SET', KEYS[6], opened) end
  redis.call('HSET', key, 'mirrored', state)
  mirrored = state
end

local function move(new, wait, k, failures, opened)
  state, rounds, till = new, k, now + wait
  ok, failed, slow = 0, 0, 0
  gen = string.format('%.0f', math.max(micros, (tonumber(gen) or 0) + 1))
  redis.call('HSET', key, 'state', state, 'gen', gen, 'until', string.format('%.0f', till), 'rounds', rounds,
             'ok', 0, 'failed', 0, 'slow', 0)
  redis.call('DEL', places)
  redis.call('PEXPIRE', key, string.format('%.0f', wait + DAY))
  if mirror then reflect(new == 'open' and (opened or time[1]), failures) end
end

local function follow()
  local theirs = redis.call('GET', KEYS[3])
  if not theirs or theirs == mirrored then return end
  if theirs == 'open' and state ~= 'open' then
    local opened = tonumber(redis.call('GET', KEYS[6])) or tonumber(time[1])
    local wait = math.max(0, math.min(open_for, opened * 1000 + open_for - now))
    move('open', wait, rounds, redis.call('GET', KEYS[4]) or 0, string.format('%.0f', opened))
  elseif theirs == 'closed' and (state == 'open' or state == 'half-open') then
    move('closed', 0, 0, 0)
  elseif state ~= '' then
    redis.call('HSET', key, 'mirrored', theirs)
  end
end

local lease = '0'
if mirror then follow() end
local current = known == gen
if op == 'open' then
  local wait, k, failures = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
  local unknown = known == '' and state == 'closed'
  if state == '' or unknown or (current and state ~= 'open') then move('open', wait, k, failures) end
elseif op == 'close' then
  if current and (state == 'half-open' or (state == 'open' and now >= till)) then move('closed', 0, rounds, 0) end
elseif op == 'force' then
  move(ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), 0)
elseif op == 'probe' then
  local held_for, most = tonumber(ARGV[5]), tonumber(ARGV[6])
  if state == '' or (state == 'open' and now >= till) or (state == 'closed' and current) then
    move('half-open', 0, rounds, 0)
  end
  if state == 'half-open' then
    redis.call('ZREMRANGEBYSCORE', places, '-inf', now)
    if redis.call('ZCARD', places) + ok + failed < most then
      lease = tostring(redis.call('HINCRBY', key, 'leases', 1))
      redis.call('ZADD', places, string.format('%.0f', now + held_for), lease)
      redis.call('PEXPIRE', key, string.format('%.0f', held_for + DAY))
      redis.call('PEXPIRE', places, string.format('%.0f', held_for + DAY))
    end
  end
elseif op == 'settle' then
  local failures, late = tonumber(ARGV[6]), tonumber(ARGV[7])
  local most, allowed, allowed_slow = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
  if current and state == 'half-open' and redis.call('ZREM', places, ARGV[5]) == 1 and failures >= 0 then
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
return {state, gen, left, rounds, lease}
"""

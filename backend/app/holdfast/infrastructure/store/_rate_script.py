"""The two scripts of a rate limit in Redis: take a slot, and give back one that is waited for.

Generic cell rate algorithm on the server's clock. A key holds numbers, in microseconds since `_EPOCH`: the theoretical
arrival time, when that was written, the generation and the interval of its slots, and the slots that were given back
with others reserved behind them. Intervals are whole multiples of 1/64 microsecond, so that sums of them are exact.
"""

from __future__ import annotations

from hashlib import sha1
from math import ceil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.infrastructure.resilience.rate_limit import RateLimitConfig

# 2026-01-01: the closer, the finer what a float can tell apart.
_EPOCH = 1_767_225_600
_MICROSECONDS = 1e6
_FRACTION = 64
# Slots given back that a key remembers; more of them at a time are lost.
_HOLES = 1000
# Redis refuses to expire a key later than its milliseconds since 1970 can say.
_LONGEST = 1e14

_COMMON = f"""
local time = redis.call("TIME")
local now = (time[1] - {_EPOCH}) * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat, generation, holes = now, now, {{}}

local function exact(number)
  return string.format("%.17g", number)
end

local function load()
  local found = {{}}
  for word in string.gmatch(redis.call("GET", KEYS[1]) or "", "%S+") do
    found[#found + 1] = tonumber(word)
  end
  if #found < 4 or found[1] <= now then
    return
  end
  tat = found[1]
  if now < found[2] then
    -- The server's clock was set back: what is left until the arrival time is what counts.
    tat = tat - (found[2] - now)
  elseif found[4] == interval then
    generation = found[3]
    for at = 5, #found do
      if found[at] - tolerance >= now then
        holes[#holes + 1] = found[at]
      end
    end
  end
end

local function save()
  local words = {{exact(tat), exact(now), exact(generation), exact(interval)}}
  for _, hole in ipairs(holes) do
    words[#words + 1] = exact(hole)
  end
  local left = math.min(math.max(math.ceil((tat - now) / 1000), 1), {_LONGEST:.0f})
  redis.call("SET", KEYS[1], table.concat(words, " "), "PX", string.format("%.0f", left))
end

load()
"""

# ARGV: interval, tolerance, longest wait. Returns whether a slot was taken, the microseconds until it (or until the one
# that was refused), the slot and its generation.
_TAKE = (
    _COMMON
    + """
local slot = holes[1] or tat
local wait = math.max(slot - now - tolerance, 0)
if wait > tonumber(ARGV[3]) then
  return {0, exact(wait), "", ""}
end
if holes[1] then
  table.remove(holes, 1)
else
  tat = tat + interval
end
save()
return {1, exact(wait), exact(slot), exact(generation)}
"""
)

# ARGV: interval, tolerance, slot, generation. Returns whether others can have the slot. Only the last of the line can
# be undone: those behind another keep their slots, so it is kept for a newcomer instead, until its time has come.
_GIVE_BACK = (
    _COMMON
    + f"""
local slot = tonumber(ARGV[3])
if generation ~= tonumber(ARGV[4]) or slot >= tat or slot - tolerance < now then
  return 0
end
if slot + interval < tat then
  if #holes >= {_HOLES} then
    return 0
  end
  holes[#holes + 1] = slot
  table.sort(holes)
else
  tat = slot
  while holes[1] and holes[#holes] + interval == tat do
    tat = table.remove(holes)
  end
end
save()
return 1
"""
)


class Script:
    """A script, and the name by which Redis knows it once it was sent."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


TAKE, GIVE_BACK = Script(_TAKE), Script(_GIVE_BACK)


def settings(config: RateLimitConfig) -> tuple[float, float]:
    """Return interval and tolerance as the scripts take them; rounded such that the rate is never exceeded."""
    interval = ceil(config.per / config.rate * _MICROSECONDS * _FRACTION) / _FRACTION
    return interval, (config.burst - 1) * interval


def microseconds(seconds: float) -> float:
    """Return seconds as the scripts take them."""
    return seconds * _MICROSECONDS


def seconds(reply: str | bytes) -> float:
    """Return microseconds of a script's reply as seconds."""
    return float(reply) / _MICROSECONDS

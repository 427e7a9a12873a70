"""The scripts of a rate limit in Redis, which take a slot, give it back, look, and forget; and what a key may be.

Generic cell rate algorithm on the server's clock. A key holds numbers, in microseconds since `_EPOCH`: the theoretical
arrival time, when that was written, the generation and the interval of its slots, the mark of who took one last and
that slot, and the slots that were given back with others reserved behind them. Intervals are whole multiples of 1/64
microsecond, so that sums of them are exact.
"""

from __future__ import annotations

from hashlib import sha1
from math import ceil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
local tat, generation, mark, last, holes = now, now, 0, 0, {{}}

local function exact(number)
  return string.format("%.17g", number)
end

local function load()
  local found = {{}}
  for word in string.gmatch(redis.call("GET", KEYS[1]) or "", "%S+") do
    found[#found + 1] = tonumber(word)
  end
  if #found < 6 or found[1] <= now then
    return
  end
  -- Where the server's clock was set back, what is left until the arrival time is what counts.
  tat = found[1] - math.max(found[2] - now, 0)
  if found[4] ~= interval then
    -- Under other settings what was used weighs as many calls.
    tat = now + math.ceil((tat - now) * interval / found[4] * {_FRACTION}) / {_FRACTION}
  elseif found[2] <= now then
    generation, mark, last = found[3], found[5], found[6]
    for at = 7, #found do
      if found[at] >= now then
        holes[#holes + 1] = found[at]
      end
    end
  end
end

local function save()
  local words = {{exact(tat), exact(now), exact(generation), exact(interval), exact(mark), exact(last)}}
  for _, hole in ipairs(holes) do
    words[#words + 1] = exact(hole)
  end
  local left = math.min(math.max(math.ceil((tat - now) / 1000), 1), {_LONGEST:.0f})
  redis.call("SET", KEYS[1], table.concat(words, " "), "PX", string.format("%.0f", left))
end

load()
"""

# ARGV: interval, tolerance, longest wait, mark. Returns whether a slot was taken, the microseconds until it (or until
# the one that was refused), the slot and its generation.
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
mark, last = tonumber(ARGV[4]), slot
save()
return {1, exact(wait), exact(slot), exact(generation)}
"""
)

# ARGV: interval, tolerance, slot, generation; or an empty slot and the mark, if the answer was not heard. Returns
# whether others can have the slot. Only the last of the line can be undone: those behind another keep their slots, so
# it is kept for a newcomer instead, until it has passed.
_GIVE_BACK = (
    _COMMON
    + f"""
local slot, mine = tonumber(ARGV[3]), tonumber(ARGV[4]) == generation
if not slot then
  slot, mine = last, tonumber(ARGV[4]) == mark
end
if not mine or slot >= tat then
  return 0
end
if slot + interval < tat then
  if slot < now or #holes >= {_HOLES} then
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

# ARGV: interval, tolerance. Returns how many calls would be admitted at once, and the microseconds until one would.
_LOOK = (
    _COMMON
    + """
local free, due = 0, now + tolerance
for _, hole in ipairs(holes) do
  if hole <= due then
    free = free + 1
  end
end
if tat <= due then
  free = free + math.floor((due - tat) / interval) + 1
end
return {exact(free), exact(math.max((holes[1] or tat) - due, 0))}
"""
)

_FORGET = 'return redis.call("DEL", KEYS[1])'


class Script:
    """A script, and the name by which Redis knows it once it was sent."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


TAKE, GIVE_BACK, LOOK, FORGET = Script(_TAKE), Script(_GIVE_BACK), Script(_LOOK), Script(_FORGET)


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


def plain(key: Any) -> Any:
    """Return a key as what it equals, of a kind that every process writes alike. TypeError if there is none."""
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int):
        return int.__int__(key)
    if isinstance(key, tuple):
        return tuple(map(plain, key))  # pyright: ignore[reportUnknownArgumentType]
    if key is None or type(key) is bytes:
        return key
    raise TypeError(
        f"{key!r} ({type(key).__name__}) cannot be a key of a rate limit in Redis: let key= return text, bytes, "
        "a whole number, None, or a tuple of these"
    )

"""Accounts: what was spent, and what is set aside for calls that run. Both are two amounts (whole numbers, such as tokens and money).

In Redis an account is one hash. `t` and `c` are what was spent, there only while that is known: until `u`, in ms. A field `h:<holder>` is
what a holder has set aside (`r`), or has spent without its being stored elsewhere yet (`w`), as `out kind t c`: it is forgotten at `out`.
`rt`, `rc`, `wt`, `wc` are the sums of these, `e` says when to look for some to forget. Each script may be called again: protocol.py says
what that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Amounts = tuple[int, int]
KEEP_SECONDS = 900  # of the whole key, after the last write; longer than anything in it

_BEGIN = """
local k, t = KEYS[1], redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function text(n) return string.format('%.0f', n) end
local function number(name) return tonumber(redis.call('HGET', k, name) or 0) end
local function parts(held) return string.match(held, '^(%d+) (%a) (%d+) (%d+)$') end
local function remove(holder)
  local held = redis.call('HGET', k, 'h:' .. holder)
  if not held then return '', 0, 0 end
  local _, kind, a, b = parts(held)
  redis.call('HDEL', k, 'h:' .. holder)
  if a ~= '0' then redis.call('HINCRBY', k, kind .. 't', '-' .. a) end
  if b ~= '0' then redis.call('HINCRBY', k, kind .. 'c', '-' .. b) end
  return kind, tonumber(a), tonumber(b)
end
local function put(holder, kind, a, b, ttl)
  local out = now + ttl
  redis.call('HSET', k, 'h:' .. holder, text(out) .. ' ' .. kind .. ' ' .. a .. ' ' .. b)
  redis.call('HINCRBY', k, kind .. 't', a)
  redis.call('HINCRBY', k, kind .. 'c', b)
  local e = redis.call('HGET', k, 'e')
  if not e or tonumber(e) > out then redis.call('HSET', k, 'e', text(out)) end
end
local function state()
  if redis.call('HEXISTS', k, 'u') == 0 then return false end
  return {number('t'), number('c'), number('rt'), number('rc')}
end
if number('u') <= now then redis.call('HDEL', k, 'u', 't', 'c') end
local e = redis.call('HGET', k, 'e')
if e and tonumber(e) <= now then
  local first
  local all = redis.call('HGETALL', k)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'h:' then
      local out = tonumber((parts(all[i + 1])))
      if out <= now then remove(string.sub(all[i], 3)) elseif not first or out < first then first = out end
    end
  end
  if first then redis.call('HSET', k, 'e', text(first)) else redis.call('HDEL', k, 'e') end
end
"""
_END = f"""
redis.call('PEXPIRE', k, {KEEP_SECONDS * 1000})
"""

# KEYS hash. The reply is {spent t, spent c, set aside t, c}, or nothing where it is not known what was spent.
READ = f"""{_BEGIN}
return state()
"""

# KEYS hash. ARGV t, c, TTL ms.
OPEN = f"""{_BEGIN}
if redis.call('HEXISTS', k, 'u') == 0 then
  redis.call('HSET', k, 't', text(ARGV[1] + number('wt')), 'c', text(ARGV[2] + number('wc')), 'u', text(now + ARGV[3]))
end
{_END}
return state()
"""

# KEYS hash. ARGV holder, t, c, limit of t or '', limit of c or '', TTL ms. The reply is {1 or 0, spent t, …}, as it was before.
RESERVE = f"""{_BEGIN}
if redis.call('HEXISTS', k, 'u') == 0 then return false end
remove(ARGV[1])
local s = state()
if (ARGV[4] ~= '' and s[1] + s[3] >= tonumber(ARGV[4])) or (ARGV[5] ~= '' and s[2] + s[4] >= tonumber(ARGV[5])) then
  return {{0, s[1], s[2], s[3], s[4]}}
end
put(ARGV[1], 'r', ARGV[2], ARGV[3], ARGV[6])
{_END}
return {{1, s[1], s[2], s[3], s[4]}}
"""

# KEYS hash. ARGV holder, t, c, TTL ms.
SETTLE = f"""{_BEGIN}
local kind, a, b = remove(ARGV[1])
if kind ~= 'w' then a, b = 0, 0 end
if redis.call('HEXISTS', k, 'u') == 1 then
  redis.call('HSET', k, 't', text(number('t') + ARGV[2] - a), 'c', text(number('c') + ARGV[3] - b))
end
put(ARGV[1], 'w', ARGV[2], ARGV[3], ARGV[4])
{_END}
return 1
"""

# KEYS hash. ARGV TTL ms, holders…
RENEW = f"""{_BEGIN}
for i = 2, #ARGV do
  local kind, a, b = remove(ARGV[i])
  if kind ~= '' then put(ARGV[i], kind, text(a), text(b), ARGV[1]) end
end
{_END}
return 1
"""

# KEYS hash. ARGV holders…
RELEASE = f"""{_BEGIN}
for i = 1, #ARGV do remove(ARGV[i]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Account:
    """What an account says: spent, and set aside."""

    spent: Amounts
    reserved: Amounts

    @classmethod
    def of_reply(cls, reply: Sequence[Any]) -> Account:
        """The account of a script's reply."""
        t, c, rt, rc = map(int, reply)
        return cls((t, c), (rt, rc))


@dataclass(slots=True)
class _Held:
    amounts: Amounts
    out: float
    unwritten: bool = False  # it was spent, and is only not stored elsewhere yet


@dataclass(slots=True)
class HeldAccount:
    """An account in this process's memory. `clock` is in seconds."""

    clock: Callable[[], float]
    known_until: float = 0.0
    spent: Amounts = (0, 0)
    held: dict[str, _Held] = field(default_factory=dict)

    def read(self) -> Account | None:
        """What it says; None where it is not known what was spent."""
        now = self.clock()
        for holder in [name for name, one in self.held.items() if one.out <= now]:
            del self.held[holder]
        return None if self.known_until <= now else Account(self.spent, self._sum(unwritten=False))

    def open(self, spent: Amounts, ttl: float) -> Account:
        """Begins with what was spent, and with what is not in that yet."""
        if (known := self.read()) is not None:
            return known
        unwritten = self._sum(unwritten=True)
        self.spent, self.known_until = (spent[0] + unwritten[0], spent[1] + unwritten[1]), self.clock() + ttl
        return Account(self.spent, self._sum(unwritten=False))

    def reserve(self, holder: str, amounts: Amounts, limits: tuple[int | None, int | None], ttl: float) -> tuple[bool, Account] | None:
        """Sets amounts aside, if there is something left of each limit."""
        if self.read() is None:
            return None
        self.held.pop(holder, None)
        account = Account(self.spent, self._sum(unwritten=False))
        for limit, spent, reserved in zip(limits, account.spent, account.reserved, strict=True):
            if limit is not None and spent + reserved >= limit:
                return False, account
        self.held[holder] = _Held(amounts, self.clock() + ttl)
        return True, account

    def settle(self, holder: str, amounts: Amounts, ttl: float) -> None:
        """Counts what a holder has spent in the place of what it had set aside."""
        self.read()
        before = self.held.pop(holder, None)
        counted = before.amounts if before and before.unwritten else (0, 0)
        self.spent = (self.spent[0] + amounts[0] - counted[0], self.spent[1] + amounts[1] - counted[1])
        self.held[holder] = _Held(amounts, self.clock() + ttl, unwritten=True)

    def renew(self, holders: Sequence[str], ttl: float) -> None:
        """Keeps what holders have set aside."""
        self.read()
        for holder in holders:
            if holder in self.held:
                self.held[holder].out = self.clock() + ttl

    def release(self, holders: Sequence[str]) -> None:
        """Forgets what holders have set aside."""
        for holder in holders:
            self.held.pop(holder, None)

    def _sum(self, *, unwritten: bool) -> Amounts:
        amounts = [one.amounts for one in self.held.values() if one.unwritten is unwritten]
        return sum(a for a, _ in amounts), sum(b for _, b in amounts)

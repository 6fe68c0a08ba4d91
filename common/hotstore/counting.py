"""The Lua scripts of versioned values, rates and groups in Redis. Each may be called again: what that does is in protocol.py.

Times are those of the server's clock, so that replicas need not agree on one.
"""

from __future__ import annotations

# KEYS hash. ARGV the version that is known. {version} when that is it, else {version, value}; nothing when there is none.
READ_VERSION = """
local held = redis.call('HGET', KEYS[1], 'r')
if not held then return false end
if held == ARGV[1] then return {held} end
return {held, redis.call('HGET', KEYS[1], 'v')}
"""

# KEYS hash. ARGV version, value, TTL ms.
WRITE_VERSION = """
local held = redis.call('HGET', KEYS[1], 'r')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'r', ARGV[1], 'v', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# KEYS string. ARGV µs for one, burst. The generic cell rate algorithm: what is kept is the time (µs) at which the bucket is full. One may
# be taken when that lies no more than `burst - 1` of them ahead. The reply is the wait in µs, 0 when one was taken.
THROTTLE = """
local t, step = redis.call('TIME'), tonumber(ARGV[1])
local now = t[1] * 1e6 + t[2]
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now))
local wait = full - (tonumber(ARGV[2]) - 1) * step - now
if wait >= 1 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.3f', full + step), 'PX', math.ceil((full + step - now) / 1000))
return 0
"""

# KEYS strings. ARGV patience in µs, then for each key µs for one, amount, burst. What is kept is as for THROTTLE; it may lie further ahead
# than the bucket holds: then it is owed. The reply is the wait in µs; nothing was taken when it is more than the patience.
DRAW = """
local t = redis.call('TIME')
local now, wait, full = t[1] * 1e6 + t[2], 0, {}
for i, key in ipairs(KEYS) do
  local step, amount, burst = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local held = math.max(now, tonumber(redis.call('GET', key) or now))
  wait = math.max(wait, held + (math.min(amount, burst) - burst) * step - now)
  full[i] = held + amount * step
end
if wait > tonumber(ARGV[1]) then return math.ceil(wait) end
for i, key in ipairs(KEYS) do
  if full[i] - now < 1 then redis.call('DEL', key)
  else redis.call('SET', key, string.format('%.3f', full[i]), 'PX', math.ceil((full[i] - now) / 1000)) end
end
return math.ceil(wait)
"""

# KEYS sorted set. ARGV member, limit, TTL ms. Scores are the times (ms) at which members are out.
ENTER = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# KEYS sorted set. ARGV TTL ms, members…
STAY = """
local t = redis.call('TIME')
local out = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], out, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""

//! What must happen in one step, as scripts that Redis runs. Each checks first whose the entry is.

/// Renews leases. KEYS: jobs; ARGV: group, consumer, entries. Returns those that are not the consumer's any more.
pub const RENEW: &str = "
local lost = {}
for i = 3, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if held[1] and held[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost";

/// Gives an entry back: from now on whoever looks for one may claim it, and this time does not count. KEYS: jobs, the job's
/// hash; ARGV: group, consumer, who gets it, its idle time, entry, 1 if it is another run for the machines then, machine.
pub const GIVE_BACK: &str = "
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[5], ARGV[5], 1)
if not held[1] or held[1][2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[5], 'IDLE', ARGV[4], 'RETRYCOUNT', math.max(held[1][4] - 1, 0), 'JUSTID')
if ARGV[6] == '1' then
  redis.call('HINCRBY', KEYS[2], 'run', 1)
  redis.call('HDEL', KEYS[2], 'handed')
end
return 1";

/// Notes where a job is, unless it is settled. KEYS: the job's hash, channel; ARGV: how long it is kept (s), what is told on
/// the channel, fields and values.
pub const NOTE: &str = "
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' or state == 'cancelled' or state == 'dead' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1";

/// Settles a job: the first result counts, whoever brings it, and it is told once. KEYS: jobs, the job's hash, results, dead,
/// channel; ARGV: group, entry, how long it is kept (s), how long the streams get, what is told on the channel, the number of
/// words of the result, the result, the dead letter. Returns 0 if it had been settled.
pub const SETTLE: &str = "
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if held.err or not held[1] then
  local state = redis.call('HGET', KEYS[2], 'state')
  if state == 'done' or state == 'failed' or state == 'cancelled' or state == 'dead' then return 0 end
end
if not held.err then redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('XDEL', KEYS[1], ARGV[2])
local words = tonumber(ARGV[6])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 7, 6 + words))
if #ARGV > 6 + words then redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 7 + words)) end
redis.call('HSET', KEYS[2], unpack(ARGV, 7, 6 + words))
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('PUBLISH', KEYS[5], ARGV[5])
return 1";

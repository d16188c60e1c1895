#!/bin/sh
# Fills the Redis on the given port of this machine with a key of every type and encoding, and saves it.
set -eu
port=$1
r() { redis-cli -p "$port" "$@" >/dev/null; }
x() { head -c "$2" /dev/zero | tr '\0' "$1"; }
r CONFIG SET maxmemory-policy allkeys-lfu
r FLUSHALL
r SET string:text hello
r SET string:empty ''
r SET string:i8 -5
r SET string:i16 -3000
r SET string:i32 2000000000
r SET string:i64 9000000000000000000
r SET string:compressed "$(x a 300)"
r SET string:long "$(seq 1 200 | tr '\n' ' ')"
r SET expiring v PXAT 4102444800123
r RPUSH list:packed a 1 -1 5000 -70000 3000000000 "$(x b 100)"
r CONFIG SET list-max-listpack-size 2
r RPUSH list:quick 1 2 3 4 5 six seven
r RPUSH list:plain "$(x c 9000)" d
r CONFIG SET list-max-listpack-size -2
r SADD set:i16 -3 1 300
r SADD set:i32 1 100000
r SADD set:i64 1 10000000000
r SADD set:table a b 3
r HSET hash:packed f v g 2
r HSET hash:table f "$(x d 100)" g 2
r ZADD zset:packed 1 one -inf low 2.5 two +inf high
r ZADD zset:table 1 "$(x e 100)" 0.1 b
r FUNCTION LOAD "#!lua name=lib
redis.register_function('f', function() return 1 end)"
redis-cli -p "$port" -n 9 SET other db >/dev/null
r SAVE

#!/usr/bin/env bash
# A session of the unmodified etcdctl, and a little curl, against a running store: every command that people and scripts
# use, with the exact answers. What is expected here was taken from etcd 3.7.3 and is checked against it; whatever
# passes on etcd has to pass on MetaStore.
#
#   .ci/etcdctl-script.sh URL[,URL...]     one member or all members of a cluster, client URLs
#
#   TARGET    etcd or metastore (default: metastore). Only where the two may differ by design.
#   ETCDCTL   the etcdctl to use; ETCDUTL likewise (only with TARGET=etcd)
#   PROGRESS  set if the members were started with --watch-progress-notify-interval of a few seconds or less
#   QUOTA     set if the member was started with a small --quota-backend-bytes (16 MiB at most): then the session is the
#             one of a full store (alarms), and nothing else
#
# Each fact is a line "ok ..." or "FAIL ...: expected ..., got ...". The exit code is 0 only if no fact failed. The store
# should be a throw-away one: keys are written under one prefix, but history is compacted and members come and go.
# Nothing depends on how fast the machine is: where something takes its time there is a poll with an upper limit.
set -uo pipefail
exec </dev/null

(($# == 1)) || { echo "usage: $0 URL[,URL...]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${METASTORE_CACHE:-$here/../.cache}/bin
TARGET=${TARGET:-metastore}
ETCDCTL=${ETCDCTL:-$cache/etcdctl}
ETCDUTL=${ETCDUTL:-$cache/etcdutl}
LIMIT=30 # seconds: the longest wait for anything that must happen
for tool in "$ETCDCTL" jq curl sha256sum; do
  command -v "$tool" >/dev/null || { echo "$tool: not found" >&2; exit 2; }
done
while read -r name; do unset "$name"; done < <(compgen -e ETCD || true) # ETCDCTL_* in the environment are flags too
ALL=$1
IFS=, read -ra URLS <<<"$ALL"
EP=$ALL # what the next etcdctl talks to
N=${#URLS[@]}
P=/court/$$-$RANDOM/ # the prefix of every key
W=$(mktemp -d)
declare -A BG=()
PASSED=0 FAILED=0

cleanup() {
  local pid
  for pid in ${BG[@]+"${BG[@]}"}; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
  rm -rf "$W"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- how facts are stated -----------------------------------------------------------------------------------------

section() { printf '\n# %s\n' "$*"; }

pass() { PASSED=$((PASSED + 1)); printf 'ok %s\n' "$1"; }
fail() { FAILED=$((FAILED + 1)); printf 'FAIL %s: expected %q, got %q\n' "$1" "$2" "$3"; }

# is FACT EXPECTED GOT
is() { if [[ $2 == "$3" ]]; then pass "$1"; else fail "$1" "$2" "$3"; fi; }

# matches FACT REGEX GOT
matches() { if [[ $3 =~ $2 ]]; then pass "$1"; else fail "$1" "~ $2" "$3"; fi; }

# Runs etcdctl; leaves OUT, ERR (its last line) and RC.
run() {
  RC=0
  timeout 60 "$ETCDCTL" --endpoints "$EP" --command-timeout 20s "$@" >"$W/out" 2>"$W/err" || RC=$?
  OUT=$(tr -d '\0' <"$W/out")
  ERR=$(tail -n 1 "$W/err")
}

# prints FACT EXPECTED ARGS...: it succeeds, with exactly this on standard output
prints() {
  local fact=$1 want=$2
  shift 2
  run "$@"
  if ((RC == 0)); then is "$fact" "$want" "$OUT"; else fail "$fact" "$want" "exit $RC: $ERR"; fi
}

# like FACT REGEX ARGS...: it succeeds and standard output matches
like() {
  local fact=$1 want=$2
  shift 2
  run "$@"
  if ((RC == 0)); then matches "$fact" "$want" "$OUT"; else fail "$fact" "$want" "exit $RC: $ERR"; fi
}

# json FACT FILTER EXPECTED ARGS...: it succeeds, and the filter makes EXPECTED of the JSON
json() {
  local fact=$1 filter=$2 want=$3
  shift 3
  run "$@" -w json
  if ((RC == 0)); then is "$fact" "$want" "$(jq -c "$filter" <"$W/out" 2>&1)"; else fail "$fact" "$want" "exit $RC: $ERR"; fi
}

# refuses FACT MESSAGE ARGS...: it fails, and the last line on standard error is "Error: MESSAGE"
refuses() {
  local fact=$1 want="Error: $2"
  shift 2
  run "$@"
  if ((RC != 0)); then is "$fact" "$want" "$ERR"; else fail "$fact" "$want" "exit 0: $OUT"; fi
}

# until_true SECONDS COMMAND...: polls; succeeds as soon as the command does
until_true() {
  local end=$((SECONDS + $1))
  shift
  while ! "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# eventually FACT COMMAND...
eventually() {
  local fact=$1
  shift
  if until_true "$LIMIT" "$@"; then pass "$fact"; else fail "$fact" "true within $LIMIT s" "$* was still false"; fi
}

# start NAME ARGS...: etcdctl in the background, standard output in $W/NAME.out. Its standard input is the caller's.
start() {
  local name=$1
  shift
  : >"$W/$name.out"
  "$ETCDCTL" --endpoints "$EP" "$@" >"$W/$name.out" 2>"$W/$name.err" <&0 &
  BG[$name]=$!
}

# stop NAME: ends it; leaves RC
stop() {
  RC=0
  kill -"${2:-TERM}" "${BG[$1]}" 2>/dev/null
  wait "${BG[$1]}" 2>/dev/null || RC=$?
  unset "BG[$1]"
}

# sees FACT NAME EXPECTED: what runs in the background has printed exactly this, or does so within the limit
sees() {
  local end=$((SECONDS + LIMIT)) got
  while got=$(cat "$W/$2.out") && [[ $got != "$3" ]] && ((SECONDS < end)); do sleep 0.1; done
  is "$1" "$3" "$got"
}

# sees_line FACT NAME REGEX: ... has printed a line that matches
sees_line() {
  if until_true "$LIMIT" grep -qE -- "$3" "$W/$2.out"; then pass "$1"; else fail "$1" "a line ~ $3" "$(cat "$W/$2.out")"; fi
}

# has_line FACT REGEX ARGS...: it succeeds, with a line that matches as a whole
has_line() {
  local fact=$1 want=$2
  shift 2
  run "$@"
  if ((RC == 0)) && grep -qxE -- "$want" "$W/out"; then pass "$fact"; else fail "$fact" "a line ~ $want" "exit $RC: $OUT $ERR"; fi
}

# Set by them: REV, the store's revision; LEASE, the id of a new lease as etcdctl prints it (16 hexadecimal digits).
revision() { run get "${P}no such key" -w json && REV=$(jq .header.revision <"$W/out"); }
grant() { run lease grant "$1" && LEASE=$(sed -nE 's/^lease ([0-9a-f]{16}) granted with TTL\([0-9]+s\)$/\1/p' "$W/out"); }

lines() { printf '%s\n' "$@"; } # lines a b c: what etcdctl prints line by line
b64() { printf %s "$1" | base64 -w 0; }
puts_all() { # puts_all KEY=VALUE...: one after the other, below the prefix
  local pair
  for pair; do run put "$P${pair%%=*}" -- "${pair#*=}" || return; ((RC == 0)) || fail "put $pair" OK "$ERR"; done
}
keys() { sed "s|^$P||" "$W/out" | paste -sd' ' | sed 's/ *$//'; } # the lines of the last answer without the prefix, on one line
# lists FACT "a b c" ARGS...: get prints these lines, the prefix taken off
lists() {
  local fact=$1 want=$2
  shift 2
  run get "$@"
  if ((RC == 0)); then is "$fact" "$want" "$(keys)"; else fail "$fact" "$want" "exit $RC: $ERR"; fi
}

# --- the facts ----------------------------------------------------------------------------------------------------

versions() {
  section "version"
  prints "etcdctl is 3.7.3" "$(lines 'etcdctl version: 3.7.3' 'API version: 3.7')" version
}

puts() {
  section "put"
  prints "put answers OK" OK put "${P}a" one
  prints "get prints key and value" "$(lines "${P}a" one)" get "${P}a"
  revision
  json "each put raises the revision by one" .header.revision $((REV + 1)) put "${P}a" two
  prints "put --prev-kv prints the pair before" "$(lines OK "${P}a" two)" put "${P}a" three --prev-kv
  json "put --prev-kv answers the whole pair before" '[.prev_kv.version, .prev_kv.mod_revision, .prev_kv.value]' \
    "[3,$((REV + 2)),\"$(b64 three)\"]" put "${P}a" four --prev-kv
  prints "put --prev-kv of a new key prints OK alone" OK put "${P}b" 1 --prev-kv
  json "put --prev-kv of a new key answers no pair" 'has("prev_kv")' false put "${P}c" 1 --prev-kv
  prints "a value may begin with a dash" OK put "${P}dash" -- -1
  prints "... and is stored" "$(lines "${P}dash" -1)" get "${P}dash"
  run put "${P}stdin" <<<"from standard input"
  prints "put reads the value from standard input" "$(lines "${P}stdin" 'from standard input')" get "${P}stdin"
  prints "an empty value is a value" OK put "${P}empty" ""
  json "... which is not the same as no key" '[.count, .kvs[0].version, .kvs[0].value]' '[1,1,null]' get "${P}empty"

  local i
  for i in $(seq 0 255); do printf "\\x$(printf %02x "$i")"; done >"$W/bytes"
  run put "${P}bytes" <"$W/bytes"
  json "all 256 byte values come back as they went" '.kvs[0].value' "\"$(base64 -w 0 "$W/bytes")\"" get "${P}bytes"
  run put "$(printf '\xff\xfe')$P" bin
  like "a key that is no text is found, and --hex prints it" '^\\xff\\xfe\\x2f.*\\x62\\x69\\x6e$' \
    get --hex "$(printf '\xff\xfe')" "$(printf '\xff\xff')"
  run del "$(printf '\xff\xfe')$P"

  run put "${P}keep" value
  prints "put --ignore-value answers OK" OK put "${P}keep" --ignore-value
  json "... keeps the value and counts a version" '[.kvs[0].version, .kvs[0].value]' "[2,\"$(b64 value)\"]" get "${P}keep"
  refuses "put --ignore-value of a missing key" "etcdserver: key not found" put "${P}missing" --ignore-value

  grant 600
  prints "put --lease answers OK" OK put "${P}leased" v1 "--lease=$LEASE"
  has_line "... and get tells the lease" "\"Lease\" : $((16#$LEASE))" get "${P}leased" -w fields
  prints "put --ignore-lease answers OK" OK put "${P}leased" v2 --ignore-lease
  has_line "... keeps the lease" "\"Lease\" : $((16#$LEASE))" get "${P}leased" -w fields
  has_line "... and changes the value" '"Value" : "v2"' get "${P}leased" -w fields
  prints "put --ignore-value moves the key to another lease" OK put "${P}leased" --ignore-value --lease=0
  has_line "... here to none" '"Lease" : 0' get "${P}leased" -w fields
  run put "${P}leased" v3 "--lease=$LEASE"
  prints "put without a lease detaches the key" OK put "${P}leased" v4
  has_line "... so that it has none" '"Lease" : 0' get "${P}leased" -w fields
  json "... and the lease has no key" .keys null lease timetolive "$LEASE" --keys
  refuses "put --ignore-lease of a missing key" "etcdserver: key not found" put "${P}missing" x --ignore-lease
  refuses "put --ignore-lease with a lease" "etcdserver: lease is provided" put "${P}leased" x --ignore-lease "--lease=$LEASE"
  refuses "put with an unknown lease" "etcdserver: requested lease not found" put "${P}leased" x --lease=7777
  run lease revoke "$LEASE"
  has_line "a key whose lease was taken off outlives it" '"Value" : "v4"' get "${P}leased" -w fields

  revision
  refuses "put of an empty key" "etcdserver: key is not provided" put "" x
  head -c 1572000 /dev/zero | tr '\0' x >"$W/fits"
  head -c 1572864 /dev/zero | tr '\0' x >"$W/large"
  head -c 2200000 /dev/zero | tr '\0' x >"$W/larger"
  refuses "a value of 1,572,864 bytes is too large" "etcdserver: request is too large" put "${P}large" <"$W/large"
  # What the server does not even receive; its library words the message.
  run put "${P}large" --max-request-bytes 8388608 <"$W/larger"
  matches "a request of 2,200,000 bytes is refused as a whole" "^Error: .*code = ResourceExhausted" "$ERR"
  is "nothing refused has raised the revision" "$REV" "$(revision && echo "$REV")"
  prints "a value of 1,572,000 bytes fits" OK put "${P}large" <"$W/fits"
  run get "${P}large" --print-value-only
  is "... and comes back whole" "$(sha256sum <"$W/fits")" "$(head -c 1572000 "$W/out" | sha256sum)"
  run del "${P}large"
}

gets() {
  section "get"
  local d=${P}get/ first
  revision
  first=$((REV + 1))
  # Created in the order c a e b d; values in the opposite order of the keys; e modified last, b the most often.
  puts_all get/c=3 get/a=5 get/e=1 get/b=x get/d=2 get/b=y get/b=4 get/e=1

  lists "--prefix, in the order of the keys" "get/a 5 get/b 4 get/c 3 get/d 2 get/e 1" "$d" --prefix
  lists "a range does not hold its end" "get/b 4 get/c 3" "${d}b" "${d}d"
  lists "--from-key begins with the key" "get/d 2 get/e 1" "${d}d" --from-key --limit 2
  lists "a key that is not there prints nothing" "" "${d}z"
  lists "a range whose end is before its begin prints nothing" "" "${d}d" "${d}b"
  lists "--limit" "get/a 5 get/b 4" "$d" --prefix --limit 2
  json "--limit tells that there is more, and how many there are" '[.more, .count, (.kvs | length)]' '[true,5,2]' get "$d" --prefix --limit 2
  json "--limit equal to the number of keys: no more" '[.more, .count, (.kvs | length)]' '[null,5,5]' get "$d" --prefix --limit 5
  lists "--order DESCEND" "get/e 1 get/d 2 get/c 3 get/b 4 get/a 5" "$d" --prefix --order DESCEND
  lists "--order ASCEND" "get/a 5 get/b 4 get/c 3 get/d 2 get/e 1" "$d" --prefix --order ASCEND
  lists "--limit applies after --order" "get/e 1" "$d" --prefix --order DESCEND --limit 1
  lists "--sort-by KEY" "get/a 5 get/b 4 get/c 3 get/d 2 get/e 1" "$d" --prefix --sort-by KEY
  lists "--sort-by CREATE, ascending by itself" "get/c 3 get/a 5 get/e 1 get/b 4 get/d 2" "$d" --prefix --sort-by CREATE
  lists "--sort-by CREATE --order DESCEND" "get/d 2 get/b 4 get/e 1 get/a 5 get/c 3" "$d" --prefix --sort-by CREATE --order DESCEND
  lists "--sort-by MODIFY" "get/c 3 get/a 5 get/d 2 get/b 4 get/e 1" "$d" --prefix --sort-by MODIFY
  lists "--sort-by MODIFY --order DESCEND" "get/e 1 get/b 4 get/d 2 get/a 5 get/c 3" "$d" --prefix --sort-by MODIFY --order DESCEND
  lists "--sort-by VALUE" "get/e 1 get/d 2 get/c 3 get/b 4 get/a 5" "$d" --prefix --sort-by VALUE
  lists "--sort-by VALUE --order DESCEND --limit" "get/a 5 get/b 4" "$d" --prefix --sort-by VALUE --order DESCEND --limit 2
  lists "--sort-by VERSION --order DESCEND --limit" "get/b 4 get/e 1" "$d" --prefix --sort-by VERSION --order DESCEND --limit 2
  refuses "an unknown order is refused by etcdctl" "bad sort order FOO" get "$d" --prefix --order FOO
  refuses "an unknown sort target is refused by etcdctl" "bad sort target FOO" get "$d" --prefix --sort-by FOO

  lists "--keys-only prints keys and empty lines" "get/a  get/b  get/c  get/d  get/e" "$d" --prefix --keys-only
  json "--keys-only answers no values, but versions" '[.kvs[] | [has("value"), .version]]' \
    '[[false,1],[false,3],[false,1],[false,1],[false,2]]' get "$d" --prefix --keys-only
  lists "--print-value-only" "5 4 3 2 1" "$d" --prefix --print-value-only
  has_line "--count-only counts" '"Count" : 5' get "$d" --prefix --count-only -w fields
  has_line "--count-only of one key" '"Count" : 1' get "${d}a" --count-only -w fields
  has_line "--count-only of nothing" '"Count" : 0' get "${d}z" --count-only -w fields
  has_line "--count-only takes no notice of --limit" '"Count" : 5' get "$d" --prefix --count-only --limit 1 -w fields
  run get "$d" --prefix --count-only -w fields
  is "--count-only answers no pairs" 0 "$(grep -c '"Key"' "$W/out")"

  lists "--rev: as it was before the last put of b" "get/a 5 get/b y get/c 3 get/d 2 get/e 1" "$d" --prefix --rev $((first + 5))
  lists "--rev: only what was created by then" "get/a 5 get/c 3" "$d" --prefix --rev $((first + 1))
  lists "--rev: before all of it" "" "$d" --prefix --rev $((first - 1))
  json "--rev: the header has the revision of now" '.header.revision >= '$((first + 7)) true get "$d" --prefix --rev "$first"
  refuses "--rev of a future revision" "etcdserver: mvcc: required revision is a future revision" get "$d" --prefix --rev 1000000000
  json "--min-mod-rev filters" '[.kvs[].mod_revision]' "[$((first + 6)),$((first + 7))]" get "$d" --prefix --min-mod-rev $((first + 5))
  json "--max-mod-rev filters, inclusive" '[.kvs[].mod_revision]' "[$((first + 1)),$first]" get "$d" --prefix --max-mod-rev $((first + 1))
  json "--min-create-rev filters, inclusive" '[.kvs[].create_revision]' "[$((first + 3)),$((first + 4))]" get "$d" --prefix --min-create-rev $((first + 3))
  json "--max-create-rev filters" '[.kvs[].create_revision]' "[$((first + 1)),$first]" get "$d" --prefix --max-create-rev $((first + 1))
  json "both bounds at once" '[.kvs[].create_revision]' "[$((first + 2))]" get "$d" --prefix --min-create-rev $((first + 2)) --max-create-rev $((first + 2))
  json "the count takes no notice of revision filters" '[.count, .kvs]' '[5,null]' get "$d" --prefix --min-mod-rev 1000000000
  json "--limit applies after the filters, and more counts what passed them" '[.more, .count, [.kvs[].mod_revision]]' \
    "[true,5,[$((first + 6))]]" get "$d" --prefix --limit 1 --min-mod-rev $((first + 5))
  json "... so that there is no more if they leave no more" '[.more, .count]' '[null,5]' get "$d" --prefix --limit 2 --min-mod-rev $((first + 5))

  lists "--consistency s" "get/a 5" "${d}a" --consistency s
  lists "--consistency l" "get/a 5" "${d}a" --consistency l
  json "-w json: the whole answer" 'del(.header.cluster_id, .header.member_id, .header.raft_term, .header.revision)' \
    "{\"header\":{},\"kvs\":[{\"key\":\"$(b64 "${d}b")\",\"create_revision\":$((first + 3)),\"mod_revision\":$((first + 6)),\"version\":3,\"value\":\"$(b64 4)\"}],\"count\":1}" get "${d}b"
  json "-w json: a header with all its fields" '.header | [.cluster_id, .member_id, .revision, .raft_term] | map(. > 0)' \
    '[true,true,true,true]' get "${d}b"
  run get "${d}b" -w fields
  is "-w fields" "$(lines "\"Key\" : \"${d}b\"" "\"CreateRevision\" : $((first + 3))" "\"ModRevision\" : $((first + 6))" \
    '"Version" : 3' '"Value" : "4"' '"Lease" : 0' '"More" : false' '"Count" : 1')" "$(tail -n +5 "$W/out")"
  prints "-w simple" "$(lines "${d}b" 4)" get "${d}b" -w simple
  run get "${d}b" -w protobuf
  is "-w protobuf" 0 "$RC"
  refuses "-w table is refused by etcdctl" "table not supported as output format" get "${d}b" -w table
  refuses "get of an empty key" "etcdserver: key is not provided" get ""
  has_line "get of an empty prefix is all there is" '"Count" : [0-9]+' get "" --prefix --count-only -w fields
  is "... and that is at least what is here" true "$( (($(sed -nE 's/"Count" : //p' "$W/out") >= 5)) && echo true)"
  lists "the end of one page begins the next" "get/c 3 get/d 2" "$(printf '%sb\x01' "$d")" "${d}~" --limit 2

  section "get --stream"
  lists "the same pairs as without" "get/a 5 get/b 4 get/c 3 get/d 2 get/e 1" "$d" --prefix --stream
  json "--stream --limit: more, and the count of all" '[.more, .count, (.kvs | length)]' '[true,5,2]' get "$d" --prefix --stream --limit 2
  lists "--stream --keys-only" "get/a  get/b  get/c  get/d  get/e" "$d" --prefix --stream --keys-only
  has_line "--stream --count-only" '"Count" : 5' get "$d" --prefix --stream --count-only -w fields
  lists "--stream --rev" "get/a 5 get/c 3" "$d" --prefix --stream --rev $((first + 1))
  lists "--stream --consistency s" "get/a 5" "${d}a" --stream --consistency s
  json "--stream of nothing: a header and no pairs" '[.header.revision > 0, .kvs, .count]' '[true,null,null]' get "${d}z" --stream
  refuses "--stream with an order" "rpc error: code = Unimplemented desc = RangeStream does not support custom sort orders" get "$d" --prefix --stream --order DESCEND
  refuses "--stream with a revision filter" "rpc error: code = Unimplemented desc = RangeStream does not support revision filters" get "$d" --prefix --stream --min-mod-rev 3
  refuses "--stream of a future revision" "etcdserver: mvcc: required revision is a future revision" get "$d" --prefix --stream --rev 1000000000
  refuses "--stream of an empty key" "etcdserver: key is not provided" get "" --stream
}

# Enough to need more than one message of a stream, and more than one page of a list.
many() {
  section "many keys"
  local d=${P}many/ i batch
  for batch in $(seq 0 9); do
    { echo; for i in $(seq 1 100); do echo "put ${d}$((1000 + batch * 100 + i)) $(printf '%0600d' "$i")"; done; echo; echo; } >"$W/txn"
    run txn <"$W/txn"
  done
  has_line "1,000 keys are counted" '"Count" : 1000' get "$d" --prefix --count-only -w fields
  run get "$d" --prefix && cp "$W/out" "$W/plain"
  is "1,000 keys are listed" 2000 "$(wc -l <"$W/plain")"
  is "... in their order" "" "$(grep "^$d" "$W/plain" | sort -c 2>&1)"
  run get "$d" --prefix --stream
  is "1,000 keys come the same way by --stream" "$(sha256sum <"$W/plain")" "$(sha256sum <"$W/out")"
  local key=$d got=0 pages=0
  while ((pages < 20)); do
    run get "$key" "${d}~" --limit 130 -w json
    got=$((got + $(jq '.kvs | length' <"$W/out")))
    pages=$((pages + 1))
    [[ $(jq .more <"$W/out") == true ]] || break
    key=$(jq -r '.kvs[-1].key' <"$W/out" | base64 -d)$(printf '\x01')
  done
  is "1,000 keys come in 8 pages of 130" "1000 in 8" "$got in $pages"
  prints "all of them are deleted at once" 1000 del "$d" --prefix
}

deletes() {
  section "del"
  local d=${P}del/
  puts_all del/a=1 del/b=2 del/c=3 del/d=4 del/e=5 del/f=6 del/g=7
  revision
  json "del of a missing key leaves the revision alone" '[.header.revision, .deleted]' "[$REV,null]" del "${d}z"
  prints "... and prints 0" 0 del "${d}z"
  prints "del prints how many" 1 del "${d}a"
  prints "... and the key is gone" "" get "${d}a"
  prints "del --prev-kv prints the pair" "$(lines 1 "${d}b" 2)" del "${d}b" --prev-kv
  prints "del --range --prev-kv prints the pairs, not that of the end" "$(lines 2 "${d}c" 3 "${d}d" 4)" del "${d}c" "${d}e" --range --prev-kv
  puts_all del/0=0
  revision
  json "del of many keys raises the revision by one" '[.header.revision, .deleted]' "[$((REV + 1)),4]" del "$d" --prefix
  prints "... and they are gone" "" get "$d" --prefix
  run put "${d}e" again
  json "a key put again begins with version 1" '.kvs[0].version' 1 get "${d}e"
  run put "~~${P}x" 1 && run put "~~${P}y" 2
  prints "del --from-key" 2 del "~~${P}x" --from-key
  refuses "del of an empty key" "etcdserver: key is not provided" del ""
  refuses "del --prefix --from-key is refused by etcdctl" "\`--prefix\` and \`--from-key\` cannot be set at the same time, choose one" del "$d" --prefix --from-key
}

txns() {
  section "txn"
  local d=${P}txn/ target
  puts_all txn/a=1 txn/a=2 txn/b=x
  run get "${d}a" -w json
  local create mod
  create=$(jq '.kvs[0].create_revision' <"$W/out") mod=$(jq '.kvs[0].mod_revision' <"$W/out")

  # What each compare says of a (version 2, value 2).
  local yes no
  yes=("value(\"${d}a\") = \"2\"" "value(\"${d}a\") != \"1\"" "value(\"${d}a\") > \"1\"" "value(\"${d}a\") < \"3\""
    "val(\"${d}a\") = \"2\"" "version(\"${d}a\") = \"2\"" "ver(\"${d}a\") > \"1\"" "version(\"${d}a\") < \"3\"" "version(\"${d}a\") != \"1\""
    "create(\"${d}a\") = \"$create\"" "c(\"${d}a\") < \"$((create + 1))\"" "create(\"${d}a\") > \"$((create - 1))\"" "create(\"${d}a\") != \"$((create - 1))\""
    "mod(\"${d}a\") = \"$mod\"" "m(\"${d}a\") < \"$((mod + 1))\"" "mod(\"${d}a\") > \"$((mod - 1))\"" "mod(\"${d}a\") != \"$((mod - 1))\""
    "version(\"${d}none\") = \"0\"" "create(\"${d}none\") = \"0\"" "mod(\"${d}none\") = \"0\"")
  no=("value(\"${d}a\") = \"1\"" "value(\"${d}a\") != \"2\"" "value(\"${d}a\") > \"2\"" "value(\"${d}a\") < \"2\""
    "version(\"${d}a\") = \"1\"" "version(\"${d}a\") > \"2\"" "version(\"${d}a\") < \"2\"" "version(\"${d}a\") != \"2\""
    "create(\"${d}a\") = \"$((create + 1))\"" "create(\"${d}a\") < \"$create\"" "create(\"${d}a\") > \"$create\"" "create(\"${d}a\") != \"$create\""
    "mod(\"${d}a\") = \"$((mod + 1))\"" "mod(\"${d}a\") < \"$mod\"" "mod(\"${d}a\") > \"$mod\"" "mod(\"${d}a\") != \"$mod\""
    "value(\"${d}none\") = \"\"" "value(\"${d}none\") != \"x\"" "value(\"${d}none\") < \"x\"" "version(\"${d}none\") > \"0\"")
  for target in "${yes[@]}"; do
    has_line "${target//"$d"/} holds" SUCCESS txn <<<"$target"$'\n\n\n'
  done
  for target in "${no[@]}"; do
    has_line "${target//"$d"/} does not hold" FAILURE txn <<<"$target"$'\n\n\n'
  done
  has_line "all compares hold" SUCCESS txn <<<"${yes[0]}"$'\n'"${yes[5]}"$'\n'"${yes[9]}"$'\n\n\n'
  has_line "one of the compares does not hold" FAILURE txn <<<"${yes[0]}"$'\n'"${no[4]}"$'\n'"${yes[9]}"$'\n\n\n'
  has_line "a txn of nothing succeeds" SUCCESS txn <<<$'\n\n\n'

  prints "the answers of the success branch, in order; reads see the writes before them" \
    "$(lines SUCCESS '' OK '' "${d}a" 3 '' 1 '' '' "${d}a" 3)" txn \
    <<<"value(\"${d}a\") = \"2\""$'\n\n'"put ${d}a 3"$'\n'"get ${d}a"$'\n'"del ${d}b"$'\n'"get ${d}b"$'\n'"get $d --prefix"$'\n\n'"put ${d}no 1"$'\n'
  prints "the branch not taken did nothing" "" get "${d}no"
  prints "the failure branch" "$(lines FAILURE '' "${d}a" 3 '' OK)" txn \
    <<<"value(\"${d}a\") = \"2\""$'\n\n'"put ${d}no 1"$'\n\n'"get ${d}a"$'\n'"put ${d}c 1"$'\n'
  prints "txn -i prints what it asks for" "$(lines compares: 'success requests (get, put, del):' 'failure requests (get, put, del):' SUCCESS '' OK)" \
    txn -i <<<"value(\"${d}a\") = \"3\""$'\n\n'"put ${d}a \"a value with blanks\""$'\n\n\n'
  prints "... and blanks in quotes belong to the value" "$(lines "${d}a" "a value with blanks")" get "${d}a"

  revision
  json "a txn of many writes raises the revision by one; each answer carries it" \
    '[.succeeded, .header.revision, [.responses[].Response | to_entries[0].value.header.revision]]' \
    "[true,$((REV + 1)),[$((REV + 1)),$((REV + 1)),$((REV + 1))]]" txn <<<$'\n'"put ${d}x 1"$'\n'"put ${d}y 2"$'\n'"del ${d}c"$'\n\n\n'
  json "all keys of one txn share its revision" '[.kvs[] | .mod_revision]' "[$((REV + 1)),$((REV + 1))]" get "${d}x" "${d}z"
  json "a txn that only reads leaves the revision alone" '[.header.revision, .responses[0].Response.response_range.count]' \
    "[$((REV + 1)),1]" txn <<<$'\n'"get ${d}x"$'\n\n\n'
  json "so does one whose deletes find nothing" .header.revision $((REV + 1)) txn <<<$'\n'"del ${d}nothing"$'\n\n\n'
  json "put --prev-kv and del --prev-kv within a txn" '[.responses[].Response | to_entries[0].value | (.prev_kv.value // .prev_kvs[0].value)]' \
    "[\"$(b64 1)\",\"$(b64 2)\"]" txn <<<$'\n'"put ${d}x 3 --prev-kv"$'\n'"del ${d}y --prev-kv"$'\n\n\n'
  grant 600
  has_line "put --lease within a txn" SUCCESS txn <<<$'\n'"put ${d}leased 1 --lease=$LEASE"$'\n\n\n'
  json "... attaches the key" .keys "[\"$(b64 "${d}leased")\"]" lease timetolive "$LEASE" --keys
  run lease revoke "$LEASE"
  prints "get with flags within a txn" "$(lines SUCCESS '' "${d}x" '')" txn <<<$'\n'"get $d --prefix --order DESCEND --limit 1 --keys-only"$'\n\n\n'

  revision
  refuses "the same key put twice" "etcdserver: duplicate key given in txn request" txn <<<$'\n'"put ${d}x 1"$'\n'"put ${d}x 2"$'\n\n\n'
  refuses "a key put and deleted" "etcdserver: duplicate key given in txn request" txn <<<$'\n'"put ${d}x 1"$'\n'"del $d --prefix"$'\n\n\n'
  has_line "the same key in both branches is fine" SUCCESS txn <<<$'\n'"put ${d}x 1"$'\n\n'"put ${d}x 2"$'\n'
  { echo; for i in $(seq 129); do echo "put ${d}n$i v"; done; echo; echo; } >"$W/txn"
  refuses "129 operations in a branch" "etcdserver: too many operations in txn request" txn <"$W/txn"
  { for i in $(seq 129); do echo "mod(\"${d}n$i\") = \"0\""; done; echo; echo; echo; } >"$W/txn"
  refuses "129 compares" "etcdserver: too many operations in txn request" txn <"$W/txn"
  refuses "a txn with a put of an empty key" "etcdserver: key is not provided" txn <<<$'\n'"put \"\" x"$'\n\n\n'
  refuses "a txn with a put of an unknown lease" "etcdserver: requested lease not found" txn <<<$'\n'"put ${d}new 1"$'\n'"put ${d}x 1 --lease=7777"$'\n\n\n'
  prints "... does nothing at all" "" get "${d}new"
  refuses "a txn with a get of a future revision" "etcdserver: mvcc: required revision is a future revision" txn <<<$'\n'"put ${d}new 1"$'\n'"get ${d}x --rev 1000000000"$'\n\n\n'
  prints "... does nothing at all, too" "" get "${d}new"
  is "nothing refused has raised the revision" "$((REV + 1))" "$(revision && echo "$REV")"
  { echo; for i in $(seq 128); do echo "put ${d}n$i v"; done; echo; echo; } >"$W/txn"
  json "128 operations in a branch" '[.succeeded, (.responses | length)]' '[true,128]' txn <"$W/txn"
  refuses "a malformed compare is refused by etcdctl" "malformed comparison: bad" txn <<<$'bad\n\n\n'
}

# watch_events NAME: the events so far of a background watch with -w json, as "TYPE key value" with the prefix off
watch_events() {
  jq -rs '.[].Events[]? | [(if .type == 1 then "DELETE" else "PUT" end), (.kv.key | @base64d), (.kv.value // "" | @base64d)] | join(" ")' \
    <"$W/$1.out" 2>/dev/null | sed -E "s|$P||; s| *\$||"
}
# watched FACT NAME EXPECTED: ... become exactly these lines
watched() {
  local end=$((SECONDS + LIMIT)) got
  while got=$(watch_events "$2") && [[ $got != "$3" ]] && ((SECONDS < end)); do sleep 0.1; done
  is "$1" "$3" "$got"
}

watches() {
  section "watch"
  local d=${P}watch/ first
  revision
  first=$((REV + 1))
  # A watch from a revision that is still to come misses nothing, however long it takes to be set up.
  start key watch "${d}a" --rev "$first"
  start prefix watch "$d" --prefix --rev "$first" -w json
  start range watch "${d}a" "${d}c" --rev "$first" -w json
  start prev watch "$d" --prefix --prev-kv --rev "$first"
  start exec watch "${d}a" --rev "$first" -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE'
  puts_all watch/a=1 watch/b=2 watch/c=3 watch/a=4
  run del "${d}b"
  run txn <<<$'\n'"put ${d}b 5"$'\n'"put ${d}c 6"$'\n'"del ${d}a"$'\n\n\n'
  puts_all watch/end=

  sees "a watch of one key prints its events" key "$(lines PUT "${d}a" 1 PUT "${d}a" 4 DELETE "${d}a" '')"
  watched "a watch of a prefix has all events in order" prefix \
    "$(lines 'PUT watch/a 1' 'PUT watch/b 2' 'PUT watch/c 3' 'PUT watch/a 4' 'DELETE watch/b' 'PUT watch/b 5' 'PUT watch/c 6' 'DELETE watch/a' 'PUT watch/end')"
  watched "a watch of a range has those within" range \
    "$(lines 'PUT watch/a 1' 'PUT watch/b 2' 'PUT watch/a 4' 'DELETE watch/b' 'PUT watch/b 5' 'DELETE watch/a')"
  sees "--prev-kv prints the pairs before" prev "$(lines PUT "${d}a" 1 PUT "${d}b" 2 PUT "${d}c" 3 PUT "${d}a" 1 "${d}a" 4 \
    DELETE "${d}b" 2 "${d}b" '' PUT "${d}b" 5 PUT "${d}c" 3 "${d}c" 6 DELETE "${d}a" 4 "${d}a" '' PUT "${d}end")"
  sees_line "a command is run for each event" exec "^\"PUT\" \"${d}a\" \"4\"\$"
  sees_line "... a delete too" exec "^\"DELETE\" \"${d}a\" \"\"\$"
  is "an event has the revisions and version of its key; a delete the revision alone" \
    "[[$first,$first,1],[$((first + 3)),$first,2],[$((first + 5)),null,null]]" \
    "$(jq -cs "[.[].Events[] | select(.kv.key == \"$(b64 "${d}a")\") | [.kv.mod_revision, .kv.create_revision, .kv.version]]" <"$W/prefix.out")"
  is "the events of one txn share its revision and come in one answer" "[[$((first + 5)),3]]" \
    "$(jq -cs "[.[] | [.Events[]? | select(.kv.mod_revision == $((first + 5)))] | select(length > 0) | [.[0].kv.mod_revision, length]]" <"$W/prefix.out")"
  local name
  for name in key prefix range prev exec; do stop "$name"; done

  start history watch "$d" --prefix --rev $((first + 3)) -w json
  watched "a watch from a past revision begins with that revision" history \
    "$(lines 'PUT watch/a 4' 'DELETE watch/b' 'PUT watch/b 5' 'PUT watch/c 6' 'DELETE watch/a' 'PUT watch/end')"
  puts_all watch/live=1
  watched "... and goes on with what comes" history \
    "$(lines 'PUT watch/a 4' 'DELETE watch/b' 'PUT watch/b 5' 'PUT watch/c 6' 'DELETE watch/a' 'PUT watch/end' 'PUT watch/live 1')"
  stop history

  start now watch "${d}now"
  written() { puts_all watch/now=1 && grep -q PUT "$W/now.out"; }
  eventually "a watch without a revision sees what comes after it" written
  stop now

  mkfifo "$W/fifo"
  exec 7<>"$W/fifo" # for reading too, so that opening it waits for no one
  start many watch -i <"$W/fifo"
  printf 'watch %s --rev %s\n' "${d}a" "$first" >&7
  sees "watch -i: the history of one key" many "$(lines PUT "${d}a" 1 PUT "${d}a" 4 DELETE "${d}a" '')"
  printf 'watch --prev-kv %s --rev %s\n' "${d}c" $((first + 5)) >&7
  sees "... a second watch on the same stream" many "$(lines PUT "${d}a" 1 PUT "${d}a" 4 DELETE "${d}a" '' PUT "${d}c" 3 "${d}c" 6)"
  revision
  echo progress >&7
  sees_line "progress, when asked for, tells the revision" many "^progress notify: $REV\$"
  puts_all watch/c=7
  sees_line "... and the watches go on" many '^7$'
  exec 7>&-
  stop many

  if [[ -n ${PROGRESS:-} ]]; then
    start progress watch "${d}nothing" --progress-notify
    revision
    sees_line "--progress-notify tells the revision from time to time" progress "^progress notify: $REV\$"
    stop progress
  fi

  start empty watch "${d}c" "${d}a"
  refused empty "a range whose end is before its begin" "watch was canceled (mvcc: watcher range is empty)"
  start negative watch "${d}a" --rev=-1
  refused negative "a negative revision" "watch was canceled (etcdserver: mvcc: required revision has been compacted)"
}

# refused NAME FACT MESSAGE: what runs in the background ends by itself, with this line on standard error
refused() {
  local ended
  gone() { ! kill -0 "${BG[$1]}" 2>/dev/null; }
  if until_true "$LIMIT" gone "$1"; then ended=$(head -n 1 "$W/$1.err"); else ended="still running"; fi
  stop "$1"
  is "$2" "exit 5: $3" "exit $RC: $ended"
}

leases() {
  section "lease"
  local d=${P}lease/ a b first
  grant 600
  a=$LEASE
  matches "lease grant prints id and TTL" '^[0-9a-f]{16}$' "$a"
  like "a TTL below the least is raised to it" '^lease [0-9a-f]{16} granted with TTL\(2s\)$' lease grant 1
  refuses "a TTL above the greatest" "failed to grant lease (etcdserver: too large lease TTL)" lease grant 9000000001
  like "lease timetolive" "^lease $a granted with TTL\(600s\), remaining\((600|5[0-9][0-9])s\)\$" lease timetolive "$a"
  prints "... of an unknown lease" "lease 0000000000007777 already expired" lease timetolive 7777
  json "... of an unknown lease has a TTL of -1" '[.ttl, ."granted-ttl", .keys]' '[-1,0,null]' lease timetolive 7777 --keys
  puts_all lease/other=1
  run put "${d}a" 1 "--lease=$a" && run put "${d}b" 2 "--lease=$a"
  json "lease timetolive --keys" '[.ttl > 500, ."granted-ttl", (.keys | sort | map(@base64d))]' "[true,600,[\"${d}a\",\"${d}b\"]]" lease timetolive "$a" --keys
  grant 500
  b=$LEASE
  run put "${d}b" 3 "--lease=$b"
  json "a key belongs to the last lease it was put with" '.keys | map(@base64d)' "[\"${d}a\"]" lease timetolive "$a" --keys
  has_line "lease list has one lease" "$a" lease list
  has_line "... and the other" "$b" lease list
  like "... and says how many" '^found [0-9]+ leases' lease list
  prints "lease keep-alive --once" "lease $a keepalived with TTL(600)" lease keep-alive --once "$a"
  refuses "lease keep-alive of an unknown lease" "etcdserver: requested lease not found" lease keep-alive --once 7777
  prints "lease revoke" "lease $a revoked" lease revoke "$a"
  prints "... deletes the keys of the lease, and only them" "$(lines "${d}b" 3 "${d}other" 1)" get "$d" --prefix
  refuses "... which is gone" "failed to revoke lease (etcdserver: requested lease not found)" lease revoke "$a"
  refuses "... and takes no key" "etcdserver: requested lease not found" put "${d}a" 1 "--lease=$a"
  run lease revoke "$b"
  refuses "a lease that is no number is refused by etcdctl" \
    'bad lease ID arg (strconv.ParseInt: parsing "zz": invalid syntax), expecting ID in Hex' lease revoke zz

  # One lease is left alone, one kept alive for longer than its TTL.
  grant 2
  a=$LEASE
  run txn <<<$'\n'"put ${d}x 1 --lease=$a"$'\n'"put ${d}y 1 --lease=$a"$'\n\n\n'
  grant 3
  b=$LEASE
  run put "${d}z" 1 "--lease=$b"
  start alive lease keep-alive "$b"
  revision
  first=$((REV + 1))
  start expiry watch "${d}x" "${d}z" --rev "$first" -w json
  watched "a lease that runs out deletes its keys" expiry "$(lines 'DELETE lease/x' 'DELETE lease/y')"
  is "... in one revision" 1 "$(jq -cs '[.[].Events[]?.kv.mod_revision] | unique | length' <"$W/expiry.out")"
  prints "... and get finds none of them" "" get "${d}x" "${d}z"
  prints "... and the lease is gone" "lease $a already expired" lease timetolive "$a"
  stop expiry
  renewed() { (($(grep -c "^lease $b keepalived with TTL(3)\$" "$W/alive.out") >= 4)); }
  eventually "lease keep-alive goes on for longer than the TTL" renewed
  prints "... and the key lives" "$(lines "${d}z" 1)" get "${d}z"
  stop alive
  expired() { run get "${d}z" && [[ -z $OUT ]]; }
  eventually "once it ends, so does the key" expired
}

members() {
  section "member"
  local i url ids
  run member list
  is "member list has a line for each member" "$N" "$(wc -l <"$W/out")"
  for url in "${URLS[@]}"; do
    has_line "... $url is a started voter" "[0-9a-f]{1,16}, started, [^ ,]+, https?://[^ ]+, $url, false" member list
  done
  json "member list -w json: no revision in the header" '.header | [has("cluster_id"), has("member_id"), has("raft_term"), has("revision")]' '[true,true,true,false]' member list
  json "... the members" "[.members[] | (.ID > 0) and (.name | length > 0) and (.peerURLs | length == 1) and (.clientURLs | length == 1)] | [length, all]" "[$N,true]" member list
  run member list -w json --hex
  ids=$(jq -r '.members[].ID' <"$W/out")
  is "members are listed in the order of their ids" "$(for i in $ids; do printf '%16s\n' "$i"; done | sort)" "$(for i in $ids; do printf '%16s\n' "$i"; done)"
  like "member list -w table" "IS LEARNER" member list -w table
  prints "member list --consistency s is the same" "$(run member list && echo "$OUT")" member list --consistency s
  refuses "member add without a peer URL is refused by etcdctl" "member peer urls not provided" member add new
  refuses "member remove of an unknown member" "etcdserver: member not found" member remove 7777
  refuses "member update of an unknown member" "etcdserver: member not found" member update 7777 --peer-urls http://127.0.0.1:1
  refuses "member promote of an unknown member" "etcdserver: member not found" member promote 7777
  refuses "member promote of a voter" "etcdserver: can only promote a learner member" member promote "$(head -n 1 <<<"$ids")"
  ((N >= 3)) || return 0

  # Port 1 has no listener: the new member never starts.
  local new cluster
  # etcdctl fills IDs up to 16 characters, with spaces: one in sixteen is shorter.
  cluster=$(printf %16s "$(run member list -w json --hex && jq -r .header.cluster_id <"$W/out")")
  # A cluster takes new members only once its own have been connected for a while (5 s in etcd).
  added() { run member add court --learner --peer-urls http://127.0.0.1:1; [[ $ERR != *"unhealthy cluster"* ]]; }
  eventually "a healthy cluster is told from one that has just come up" added
  new=$(sed -nE 's/^Member +([0-9a-f]+) added.*/\1/p' "$W/out")
  is "member add --learner prints the new member" "Member $(printf %16s "$new") added as learner to cluster $cluster" "$(head -n 1 "$W/out")"
  matches "... and what to start it with" '^ETCD_NAME="court"
ETCD_INITIAL_CLUSTER="[^"]*court=http://127.0.0.1:1[^"]*"
ETCD_INITIAL_ADVERTISE_PEER_URLS="http://127.0.0.1:1"
ETCD_INITIAL_CLUSTER_STATE="existing"$' "$(tail -n +3 "$W/out")"
  has_line "member list has it, without a name and client URLs" "$new, unstarted, , http://127.0.0.1:1, , true" member list
  refuses "a second learner" "etcdserver: too many learner members in cluster" member add more --learner --peer-urls http://127.0.0.1:2
  # A member's id is made of its URLs and the second of its birth: within the same second the id is found to be taken first.
  run member add more --peer-urls http://127.0.0.1:1
  matches "a member with the peer URL of another" '^Error: etcdserver: (Peer URLs already exists|member ID already exist)$' "$ERR"
  refuses "a learner that is not in sync is not promoted" \
    "etcdserver: can only promote a learner member which is in sync with leader" member promote "$new"
  refuses "the leader's role does not go to a learner" "etcdserver: bad leader transferee" move-leader "$new"
  prints "member update" "Member $(printf %16s "$new") updated in cluster $cluster" member update "$new" --peer-urls http://127.0.0.1:1,http://127.0.0.1:2
  has_line "... changes the peer URLs" "$new, unstarted, , http://127.0.0.1:1,http://127.0.0.1:2, , true" member list
  refuses "... but not to those of another member" "etcdserver: Peer URLs already exists" \
    member update "$new" --peer-urls "$(run member list -w json && jq -r '[.members[] | select(.name)][0].peerURLs[0]' <"$W/out")"
  prints "the store goes on with a learner that is down" OK put "${P}learner" 1
  prints "member remove" "Member $(printf %16s "$new") removed from cluster $cluster" member remove "$new"
  run member list
  is "... leaves the members of before" "$N" "$(wc -l <"$W/out")"
  refuses "a removed member is not found" "etcdserver: member not found" member remove "$new"

  # A voter that is down: the cluster keeps its quorum of three in four. Without a name it counts as not started.
  run member add court --peer-urls http://127.0.0.1:3 -w json --hex
  new=$(jq -r .member.ID <"$W/out")
  is "member add -w json: the new member and all of them" "[[\"http://127.0.0.1:3\"],null,$((N + 1))]" \
    "$(jq -c '[.member.peerURLs, .member.isLearner, (.members | length)]' <"$W/out")"
  prints "the store goes on with a voter that is down" OK put "${P}voter" 1
  prints "member remove of a voter" "Member $(printf %16s "$new") removed from cluster $cluster" member remove "$new"
  prints "... and the store goes on" "$(lines "${P}voter" 1)" get "${P}voter"
}

endpoints() {
  section "endpoint"
  local url
  run endpoint status -w json
  is "endpoint status has an entry for each endpoint" "$(printf '%s\n' "${URLS[@]}" | sort)" "$(jq -r '.[].Endpoint' <"$W/out" | sort)"
  is "... with all it has to tell" '[true]' "$(jq -c '[.[].Status | (.version | test("^3\\.[0-9]+\\.[0-9]+")) and (.storageVersion | test("^3\\.[0-9]+\\.[0-9]+")) and .dbSize > 0
    and .dbSizeInUse > 0 and .dbSizeQuota > 0 and .leader > 0 and .raftIndex > 0 and .raftTerm > 0 and .raftAppliedIndex > 0
    and .header.revision > 1 and .header.cluster_id > 0 and .header.member_id > 0 and (has("errors") | not)] | unique' <"$W/out")"
  is "... the same leader and cluster for all" '[1,1]' "$(jq -c '[([.[].Status.leader] | unique | length), ([.[].Status.header.cluster_id] | unique | length)]' <"$W/out")"
  run endpoint status
  is "one endpoint is the leader" 1 "$(awk -F', ' '$9 == "true"' "$W/out" | wc -l)"
  is "none is a learner" "$N" "$(awk -F', ' '$10 == "false"' "$W/out" | wc -l)"
  like "endpoint status -w table" "RAFT APPLIED INDEX" endpoint status -w table
  has_line "endpoint status -w fields" '"RaftAppliedIndex" : [0-9]+' endpoint status -w fields
  EP=${URLS[0]}
  run endpoint status --cluster
  is "endpoint status --cluster finds all members from one" "$N" "$(wc -l <"$W/out")"
  run endpoint health --cluster -w json
  is "endpoint health --cluster: all of them are healthy" "$N" "$(jq '[.[] | select(.health)] | length' <"$W/out")"
  EP=$ALL
  for url in "${URLS[@]}"; do
    has_line "endpoint health of $url" "$url is healthy: successfully committed proposal: took = .*" endpoint health
  done
  run --endpoints http://127.0.0.1:1 --dial-timeout 1s --command-timeout 1s endpoint health
  is "endpoint health where nobody listens fails" "1 Error: unhealthy cluster" "$RC $ERR"

  # All members have the same history up to a revision, so the same hash.
  run put "${P}hash" 1
  revision
  hashes() { run endpoint hashkv --rev "$REV" -w json && ((RC == 0)) && [[ $(jq length <"$W/out") == "$N" ]]; }
  eventually "endpoint hashkv answers for every endpoint" hashes
  is "... the same hash for all, at the revision asked for" "[1,[$REV]]" \
    "$(jq -c '[([.[].HashKV.hash] | unique | length), ([.[].HashKV.hash_revision] | unique)]' <"$W/out")"
  local before
  before=$(jq '.[0].HashKV.hash' <"$W/out")
  run put "${P}hash" 2
  run endpoint hashkv --rev "$REV" -w json
  is "the hash of a revision stays what it is" "$before" "$(jq '.[0].HashKV.hash' <"$W/out")"
  hashes_now() { run endpoint hashkv --cluster -w json && [[ $(jq -c '[length, ([.[].HashKV | [.hash, .hash_revision]] | unique | length)]' <"$W/out") == "[$N,1]" ]]; }
  eventually "endpoint hashkv --cluster: all members agree on the newest revision" hashes_now
  is "... whose hash is another" false "$(jq ".[0].HashKV.hash == $before" <"$W/out")"
  like "endpoint hashkv prints endpoint, hash, revision" "^${URLS[0]}, [0-9]+, [0-9]+" endpoint hashkv
  refuses "endpoint hashkv of a future revision" "etcdserver: mvcc: required revision is a future revision" endpoint hashkv --rev 1000000000
}

# Every member serves everything, whether it leads or not: what goes in through one is there through all the others.
everywhere() {
  ((N >= 2)) || return 0
  section "each member on its own"
  local url other d i=0
  for url in "${URLS[@]}"; do
    i=$((i + 1)) d=${P}member$i/
    EP=$url
    prints "member $i: put" OK put "${d}a" "$i"
    for other in "${URLS[@]}"; do
      EP=$other
      prints "... is read through $other" "$(lines "${d}a" "$i")" get "${d}a"
    done
    EP=$url
    serial() { run get "${d}a" --consistency s && [[ $OUT == "$(lines "${d}a" "$i")" ]]; }
    eventually "member $i: its own copy has it" serial
    has_line "member $i: txn" SUCCESS txn <<<"value(\"${d}a\") = \"$i\""$'\n\n'"put ${d}b $i"$'\n\n\n'
    revision
    start w watch "$d" --prefix --rev $((REV + 1))
    EP=${URLS[i % N]}
    run put "${d}c" next
    EP=$url
    sees "member $i: a watch sees what went in through the next member" w "$(lines PUT "${d}c" next)"
    stop w
    grant 600
    run put "${d}leased" 1 "--lease=$LEASE"
    EP=${URLS[i % N]}
    prints "member $i: its lease is kept alive through the next member" "lease $LEASE keepalived with TTL(600)" lease keep-alive --once "$LEASE"
    json "... and has its key there" .keys "[\"$(b64 "${d}leased")\"]" lease timetolive "$LEASE" --keys
    has_line "... and is listed there" "$LEASE" lease list
    EP=$url
    prints "member $i: lease revoke" "lease $LEASE revoked" lease revoke "$LEASE"
    prints "member $i: del" 3 del "$d" --prefix
    run member list
    is "member $i: member list" "$N" "$(wc -l <"$W/out")"
  done
  EP=$ALL
}

leaders() {
  ((N >= 3)) || return 0
  section "move-leader"
  local leader follower url
  run endpoint status
  leader=$(awk -F', ' '$9 == "true" {print $2}' "$W/out")
  follower=$(awk -F', ' '$9 == "false" {print $2; exit}' "$W/out")
  url=$(awk -F', ' '$9 == "false" {print $1; exit}' "$W/out")
  prints "move-leader" "Leadership transferred from $leader to $follower" move-leader "$follower"
  moved() { run endpoint status && [[ $(awk -F', ' '$9 == "true" {print $2}' "$W/out") == "$1" ]]; }
  eventually "... and every member says so" moved "$follower"
  prints "... and the store goes on" OK put "${P}moved" 1
  prints "move-leader to the one that leads already" "Leadership transferred from $follower to $follower" move-leader "$follower"
  refuses "move-leader to an unknown member" "etcdserver: bad leader transferee" move-leader 7777
  prints "move-leader back" "Leadership transferred from $follower to $leader" move-leader "$leader"
  eventually "... and every member says so, again" moved "$leader"
  EP=$url
  refuses "move-leader sent to a follower alone is refused by etcdctl" "no leader endpoint given at [$url]" move-leader "$leader"
  EP=$ALL
}

compactions() {
  section "compaction"
  local d=${P}compact/ first
  revision
  first=$((REV + 1))
  puts_all compact/a=1 compact/a=2 compact/a=3 compact/b=1
  run del "${d}b"
  puts_all compact/c=1
  prints "compaction" "compacted revision $((first + 2))" compaction $((first + 2))
  refuses "get below the compacted revision" "etcdserver: mvcc: required revision has been compacted" get "${d}a" --rev $((first + 1))
  refuses "get --stream below it" "etcdserver: mvcc: required revision has been compacted" get "${d}a" --rev $((first + 1)) --stream
  lists "get at the compacted revision" "compact/a 3" "${d}a" --rev $((first + 2))
  lists "get above it" "compact/a 3 compact/b 1" "$d" --prefix --rev $((first + 3))
  lists "get of now" "compact/a 3 compact/c 1" "$d" --prefix
  json "versions and revisions stay" '.kvs[0] | [.create_revision, .mod_revision, .version]' "[$first,$((first + 2)),3]" get "${d}a"
  refuses "compaction of a compacted revision" "etcdserver: mvcc: required revision has been compacted" compaction $((first + 2))
  refuses "compaction of revision 0" "etcdserver: mvcc: required revision has been compacted" compaction 0
  refuses "compaction of a future revision" "etcdserver: mvcc: required revision is a future revision" compaction 1000000000
  refuses "endpoint hashkv below the compacted revision" "etcdserver: mvcc: required revision has been compacted" endpoint hashkv --rev $((first + 1))
  start compacted watch "${d}a" --rev $((first + 1))
  refused compacted "a watch from below the compacted revision" "watch was canceled (etcdserver: mvcc: required revision has been compacted)"
  start json watch "${d}a" --rev $((first + 1)) -w json
  refused json "... which is canceled" "watch was canceled (etcdserver: mvcc: required revision has been compacted)"
  is "... and tells from which revision it could" "[true,$((first + 2))]" "$(jq -c '[.Canceled, .CompactRevision]' <"$W/json.out")"
  start above watch "$d" --prefix --rev $((first + 2)) -w json
  watched "a watch from the compacted revision has what is left" above \
    "$(lines 'PUT compact/a 3' 'PUT compact/b 1' 'DELETE compact/b' 'PUT compact/c 1')"
  stop above
  revision
  prints "compaction --physical" "compacted revision $REV" compaction --physical "$REV"
  lists "... keeps the keys" "compact/a 3 compact/c 1" "$d" --prefix
  hashes_now() { run endpoint hashkv --cluster -w json && [[ $(jq -c "[length, ([.[].HashKV | [.hash, .hash_revision, .compact_revision]] | unique | length), .[0].HashKV.compact_revision]" <"$W/out") == "[$N,1,$REV]" ]]; }
  eventually "endpoint hashkv: all members agree after it, and on the compacted revision" hashes_now
}

maintenance() {
  section "defrag, alarm, snapshot"
  local url
  run defrag
  is "defrag of each endpoint" "$(for url in "${URLS[@]}"; do echo "Finished defragmenting etcd member[$url]."; done | sort)" "$(sed 's/ took .*//' "$W/out" | sort)"
  EP=${URLS[0]}
  run defrag --cluster
  is "defrag --cluster" "$N" "$(grep -c '^Finished defragmenting etcd member\[' "$W/out")"
  EP=$ALL
  prints "alarm list: none" "" alarm list
  json "alarm list -w json: none" 'has("alarms")' false alarm list
  prints "alarm disarm: none" "" alarm disarm

  for url in "${URLS[@]}"; do
    EP=$url
    rm -f "$W/snapshot"
    run snapshot save "$W/snapshot"
    is "snapshot save from $url" "0 Snapshot saved at $W/snapshot" "$RC $(head -n 1 "$W/out")"
    matches "... tells the version of the store" '^Server version 3\.[0-9]+\.[0-9]+$' "$(sed -n 2p "$W/out")"
    is "... whole blocks of 512 bytes and 32 bytes more" 32 "$(($(stat -c %s "$W/snapshot") % 512))"
    is "... which are the SHA-256 of the rest" "$(head -c -32 "$W/snapshot" | sha256sum | cut -d' ' -f1)" "$(tail -c 32 "$W/snapshot" | od -An -v -tx1 | tr -d ' \n')"
    # The file is bbolt's in etcd, and one of our own in MetaStore: only etcd's own tool reads the former.
    if [[ $TARGET == etcd ]]; then
      "$ETCDUTL" snapshot status "$W/snapshot" -w json >"$W/out" 2>"$W/err"
      is "... and etcdutl reads it" true "$(jq '.totalKey > 0 and .revision > 0' <"$W/out")"
    fi
  done
  EP=$ALL
  if ((N > 1)); then
    refuses "snapshot save from many endpoints is refused by etcdctl" \
      "snapshot must be requested to one selected node, not multiple [${ALL//,/ }]" snapshot save "$W/snapshot"
  fi
}

locks() {
  section "lock, elect"
  local name=${P}lock key
  prints "lock runs a command with the lock held" "held" lock "$name" echo held
  run lock "$name" -- sh -c 'echo "$ETCD_LOCK_KEY"; exit 7'
  is "... passes its exit code on" 7 "$RC"
  matches "... and tells it the key" "^$name/[0-9a-f]+\$" "$OUT"
  prints "... which is gone afterwards" "" get "$name" --prefix
  start first lock "$name"
  sees_line "lock prints its key once it has it" first "^$name/[0-9a-f]+\$"
  start second lock "$name"
  waiting() { run get "$name/" --prefix --keys-only && [[ $(grep -c . "$W/out") == 2 ]]; }
  eventually "a second one queues up" waiting
  is "... and waits" "" "$(cat "$W/second.out")"
  stop first
  is "the first one ends on a signal" 0 "$RC"
  sees_line "... and then the second one has it" second "^$name/[0-9a-f]+\$"
  stop second
  start dead lock "$name" --ttl 2
  sees_line "a third one has it" dead "^$name/[0-9a-f]+\$"
  stop dead KILL
  prints "once it has died, its lease runs out and the lock is free" "free" lock "$name" echo free

  name=${P}election
  start observer elect -l "$name"
  start leader elect "$name" one
  sees_line "elect prints the proposal once elected" leader '^one$'
  sees_line "... and whoever listens sees it" observer '^one$'
  start next elect "$name" two
  eventually "a second candidate queues up" queued "$name"
  stop leader
  sees_line "once the first resigns, the second is elected" next '^two$'
  sees_line "... and whoever listens sees that, too" observer '^two$'
  stop next
  stop observer
}
queued() { run get "$1/" --prefix --keys-only && [[ $(grep -c . "$W/out") == 2 ]]; }

# http PATH [CURL ARGS...]: leaves BODY and CODE
http() {
  local path=$1
  shift
  CODE=$(curl -s -m 20 -o "$W/body" -w '%{http_code}' "$@" "$url$path") || CODE=000
  BODY=$(cat "$W/body" 2>/dev/null)
}

over_http() {
  section "over HTTP"
  local url
  for url in "${URLS[@]}"; do
    http /health
    is "$url: /health" '200 {"health":"true","reason":""}' "$CODE $BODY"
    http '/health?serializable=true'
    is "... without asking the others" '200 {"health":"true","reason":""}' "$CODE $BODY"
    http '/health?exclude=NOSPACE'
    is "... without an alarm" '200 {"health":"true","reason":""}' "$CODE $BODY"
    http /livez
    is "/livez" "200 ok" "$CODE $BODY"
    http '/livez?verbose'
    is "/livez?verbose" "200 $(lines '[+]serializable_read ok' ok)" "$CODE $BODY"
    http /readyz
    is "/readyz" "200 ok" "$CODE $BODY"
    http '/readyz?verbose'
    is "/readyz?verbose" "200 $(lines '[+]data_corruption ok' '[+]linearizable_read ok' '[+]non_learner ok' '[+]serializable_read ok' ok)" "$CODE $(sort "$W/body")"
    is "... the verdict last" ok "$(tail -n 1 "$W/body")"
    http '/readyz?verbose&exclude=non_learner'
    is "/readyz with one check left out" "200 $(lines '[+]data_corruption ok' '[+]linearizable_read ok' '[+]serializable_read ok' ok)" "$CODE $(sort "$W/body")"
    http /readyz/linearizable_read
    is "one check alone" "200 ok" "$CODE $BODY"
    http /readyz/nope
    is "a check there is not" 404 "$CODE"
    http /version
    is "/version" "200 true" "$CODE $(jq -c '[.etcdserver, .etcdcluster, .storage] | map(test("^3\\.[0-9]+\\.[0-9]+")) | all' <"$W/body")"
    http /metrics
    is "/metrics: there is a leader" "200 etcd_server_has_leader 1" "$CODE $(grep '^etcd_server_has_leader ' "$W/body")"
    is "/metrics: every line is well formed" "" "$(grep -vE '^(#.*|[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})? [-+0-9.eEInfNa]+)$' "$W/body" | head -n 3)"
    http /nope
    is "a path there is not" 404 "$CODE"
    http /health -X PUT
    is "a method there is not" 405 "$CODE"
  done
}

# A store with little room. It fills up, says so, still reads and deletes, and comes back once it is told to.
full_store() {
  section "a full store"
  local d=${P}full/ i url=${URLS[0]}
  head -c 1048576 /dev/zero | tr '\0' x >"$W/value"
  for i in $(seq 1 40); do
    run put "$d$i" <"$W/value"
    ((RC == 0)) || break
  done
  is "a store that is full refuses a put" "Error: etcdserver: mvcc: database space exceeded" "$ERR"
  like "alarm list tells" '^memberID:[0-9]+ +alarm:NOSPACE *$' alarm list
  refuses "... every put" "etcdserver: mvcc: database space exceeded" put "${d}small" 1
  refuses "... a txn that puts" "etcdserver: mvcc: database space exceeded" txn <<<$'\n'"put ${d}small 1"$'\n\n\n'
  refuses "... a new lease" "failed to grant lease (etcdserver: mvcc: database space exceeded)" lease grant 100
  has_line "it still reads" '"Count" : 1' get "${d}1" --count-only -w fields
  has_line "... also in a txn" SUCCESS txn <<<$'\n'"get ${d}1 --keys-only"$'\n\n\n'
  run endpoint health
  is "endpoint health tells" "1 Error: unhealthy cluster" "$RC $ERR"
  matches "... why" "^$url is unhealthy: failed to commit proposal: Active Alarm\(s\)" "$(grep unhealthy: "$W/err" "$W/out" -h | head -n 1)"
  json "endpoint status tells" '.[0].Status.errors | length > 0' true endpoint status
  http /health
  is "/health tells" '503 {"health":"false","reason":"ALARM NOSPACE"}' "$CODE $BODY"
  http '/health?exclude=NOSPACE'
  is "... unless it shall not" '200 {"health":"true","reason":""}' "$CODE $BODY"
  http /livez
  is "/livez has no objection" "200 ok" "$CODE $BODY"
  http /readyz
  is "/readyz neither" "200 ok" "$CODE $BODY"
  like "del still works" '^[0-9]+$' del "$d" --prefix
  revision
  prints "compaction still works" "compacted revision $REV" compaction --physical "$REV"
  run defrag
  is "defrag still works" 0 "$RC"
  refuses "room alone does not end the alarm" "etcdserver: mvcc: database space exceeded" put "${d}small" 1
  like "alarm disarm" '^memberID:[0-9]+ +alarm:NOSPACE *$' alarm disarm
  prints "... leaves no alarm" "" alarm list
  prints "... and the store takes a put" OK put "${d}small" 1
  http /health
  is "... and is healthy" '200 {"health":"true","reason":""}' "$CODE $BODY"
}

printf '# %s against %s (%d)\n' "$TARGET" "$ALL" "$N"
if [[ -n ${QUOTA:-} ]]; then
  full_store
else
  versions
  puts
  gets
  many
  deletes
  txns
  watches
  leases
  endpoints
  everywhere
  members
  leaders
  compactions
  maintenance
  locks
  over_http
fi
printf '\n%d passed, %d failed\n' "$PASSED" "$FAILED"
((FAILED == 0 && PASSED > 0))

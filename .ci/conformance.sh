#!/usr/bin/env bash
# Real processes of a given binary under the unmodified etcdctl: one member, three members, a full store, restarts and
# kill -9, members that come and go, and how the process itself answers good and bad invocations.
#
#   .ci/conformance.sh BIN [SESSION...]     sessions: process one three full restart grow tls (default: all)
#
# BIN is metastore, or etcd, on which every fact was proven. Needs what .ci/tools.sh builds. Exits non-zero if any fact
# failed; what the members wrote is then kept, and its place printed.
set -euo pipefail
times=""

(($# >= 1)) || { echo "usage: $0 BIN [SESSION...]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(realpath "$1")
shift
cache=${METASTORE_CACHE:-$here/../.cache}/bin
etcdctl=${ETCDCTL:-$cache/etcdctl}
case $(basename "$bin") in etcd) TARGET=etcd ;; *) TARGET=${TARGET:-metastore} ;; esac
export TARGET
# shellcheck source-path=SCRIPTDIR
. "$here/start-cluster.sh"
work=$(mktemp -d)
passed=0 failed=0
running="" # the directory of the cluster that is up
session="" # the session that is going on

finish() {
  local rc=$?
  [[ -n $running ]] && cluster_stop "$running" >/dev/null 2>&1
  if [[ -n $session ]]; then
    bad "the session $session gets to its end" "exit 0" "exit $rc"
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
  fi
  if ((rc == 0 && failed == 0)); then rm -rf "$work"; else echo "kept: $work" >&2; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

ok() { passed=$((passed + 1)); echo "ok $1"; }
bad() { failed=$((failed + 1)); printf 'FAIL %s: expected %q, got %q\n' "$1" "$2" "$3"; }
is() { if [[ $2 == "$3" ]]; then ok "$1"; else bad "$1" "$2" "$3"; fi; }

up() { # up NAME N [flags...]
  local name=$1 n=$2
  shift 2
  running=$work/$name
  cluster_start "$bin" "$n" "$running" "$@"
}
down() {
  local i codes=""
  if cluster_stop "$running"; then ok "SIGTERM ends every member in time"; else bad "SIGTERM ends every member in time" yes no; fi
  for i in $(seq 1 "$(cat "$running/n")"); do codes+="$(cat "$running/$i.rc") "; done
  # etcd passes the signal on to itself at the end; MetaStore says 0 once all is safe.
  if [[ $TARGET == metastore ]]; then is "... with exit code 0" "$(printf '0 %.0s' $(seq 1 "$(cat "$running/n")"))" "$codes"; fi
  running=""
}

# Runs the session of etcdctl against what is up, and adds its facts to ours.
etcdctl_session() {
  local out=$running/session.out rc=0 p f
  "$here/etcdctl-script.sh" "$CLUSTER_ENDPOINTS" | tee "$out" || rc=$?
  read -r p f < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$out" | tail -n 1) || true
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
  if ((rc != 0 && ${f:-0} == 0)); then bad "the session ends by itself" "exit 0" "exit $rc"; fi
  if ((rc != 0)); then # what the members had to say about it
    for p in "$running"/*.log; do
      echo "# $p"
      grep -vE '"level":"(info|debug)"' "$p" | cut -c1-400 | tail -n 5 || true
    done
  fi
}

one() { up one 1 --watch-progress-notify-interval=1s && PROGRESS=1 etcdctl_session && down; }
three() { up three 3 --watch-progress-notify-interval=1s && PROGRESS=1 etcdctl_session && down; }
full() { up full 1 --quota-backend-bytes=16777216 && QUOTA=1 etcdctl_session && down; }

ctl() { timeout 60 "$etcdctl" --endpoints "$CLUSTER_ENDPOINTS" --command-timeout 20s "$@" 2>&1; }
state() { ctl get /restart/ --prefix -w json | jq -c '[.header.revision, .kvs]'; }

restart() {
  local n i before how
  for n in 1 3; do
    up "restart$n" "$n"
    for i in $(seq 1 20); do ctl put "/restart/$i" "$i" >/dev/null; done
    ctl del /restart/7 >/dev/null
    ctl put /restart/leased x "--lease=$(ctl lease grant 600 | cut -d' ' -f2)" >/dev/null
    before=$(state)
    for how in TERM KILL; do
      # All at once, and without a word of warning the second time.
      for i in $(seq 1 "$n"); do kill -"$how" "$(cat "$running/$i.pid")"; done
      for i in $(seq 1 "$n"); do cluster_member_stop "$running" "$i"; done
      for i in $(seq 1 "$n"); do : >"$running/$i.log" && cluster_member_start "$running" "$i"; done
      for i in $(seq 1 "$n"); do cluster_member_wait "$running" "$i"; done
      is "$n: SIG$how to all, start: nothing is lost or new" "$before" "$(state)"
      is "... the lease has its key" '["/restart/leased"]' \
        "$(ctl lease timetolive "$(ctl lease list | tail -n 1)" --keys -w json | jq -c '.keys | map(@base64d)')"
    done
    is "... and goes on" OK "$(ctl put /restart/on 1)"
    if ((n == 3)); then
      kill -KILL "$(cat "$running/1.pid")"
      cluster_member_stop "$running" 1
      # It may have been the leader, and then a request or two fails before there is another.
      two() { "$etcdctl" --endpoints "$(cat "$running/2.client"),$(cat "$running/3.client")" --command-timeout 5s put /restart/two 2 >/dev/null 2>&1; }
      is "3: one is killed, the others go on" yes "$(cluster_poll 60 two && echo yes)"
      cluster_member_start "$running" 1
      cluster_member_wait "$running" 1
      is "... and it catches up" '["/restart/two","2"]' \
        "$("$etcdctl" --endpoints "$(cat "$running/1.client")" --command-timeout 20s get /restart/two -w json | jq -c '.kvs[0] | [.key, .value] | map(@base64d)')"
    fi
    down
  done
}

# --- members that come and go ---

at() { # at I ARGS...: etcdctl, asking member I alone
  local i=$1
  shift
  timeout 60 "$etcdctl" --endpoints "$(cat "$running/$i.client")" --command-timeout 20s "$@" 2>&1
}
last() { tail -n 1 <<<"$1"; }
says() { # says FACT EXPECTED I ARGS...: the last line of what member I answers
  local fact=$1 want=$2
  shift 2
  is "$fact" "$want" "$(last "$(at "$@")")"
}
id_of() { at "$1" member list | awk -F', ' -v name="m$2" '$3 == name {print $1}'; }
added() { at "$@" >"$running/added"; }

# join VIA [--learner]: tells the cluster, through member VIA, of one more, and starts it; leaves its number in CLUSTER_NEW
join() {
  local via=$1 new
  shift
  cluster_prepare "$running"
  new=$CLUSTER_NEW
  # Refused for a while by a cluster that has only just come together.
  cluster_poll 60 added "$via" member add "m$new" --peer-urls "$(cat "$running/$new.peer")" "$@" || true
  is "member add m$new $*" "added${*:+ as learner} to cluster" "$(head -n 1 "$running/added" | grep -o 'added.*cluster')"
  cluster_member_start "$running" "$new" --snapshot-count=100
  cluster_member_wait "$running" "$new"
}

promoted() { at "$1" member promote "$2" >"$running/promoted"; }
learn() { # learn VIA I: member I, a learner, becomes a voter
  local id
  id=$(id_of "$1" "$2")
  cluster_poll 60 promoted "$1" "$id" || true
  is "m$2 is promoted once it is in sync" "Member $(printf %16s "$id") promoted in cluster" "$(grep -o '^Member.*cluster' "$running/promoted")"
}

grow() {
  local i lead url id sum no="Error: etcdserver: rpc not supported for learner"
  # So many writes that what a newcomer needs is no longer in the log alone.
  up grow 3 --snapshot-count=100
  for i in $(seq 1 250); do ctl put "/grow/$i" "$i" >/dev/null; done
  join 1 --learner
  url=$(cat "$running/4.client")
  has() { [[ $(at 4 get /grow/250 --consistency s --print-value-only) == 250 ]]; }
  is "a learner gets what has been written" yes "$(cluster_poll 30 has && echo yes)"
  is "... is listed as one" "m4 true" "$(ctl member list | awk -F', ' '$6 == "true" {print $3, $6}')"
  is "... says so" true "$(at 4 endpoint status -w json | jq '.[0].Status.isLearner')"
  says "... does not read for all" "$no" 4 get /grow/1
  says "... nor stream" "$no" 4 get /grow/1 --stream --consistency s
  says "... nor write" "$no" 4 put /grow/x 1
  says "... nor delete" "$no" 4 del /grow/x
  says "... nor transact" "$no" 4 txn <<<$'\nget /grow/x\n\n\n'
  says "... nor compact" "$no" 4 compaction 3
  says "... nor grant leases" "Error: failed to grant lease (etcdserver: rpc not supported for learner)" 4 lease grant 10
  says "... nor list members" "$no" 4 member list
  says "... nor alarms" "$no" 4 alarm list
  is "... nor watch" "watch was canceled (etcdserver: rpc not supported for learner)" "$(at 4 watch /grow/x | head -n 1)"
  is "... but hands out a snapshot" "Snapshot saved at $running/snapshot" "$(at 4 snapshot save "$running/snapshot" | grep '^Snapshot saved')"
  is "... lives" "ok 200" "$(curl -s -m 20 -w '%{http_code}' "$url/livez" | paste -sd' ')"
  is "... and is not ready" "503" "$(curl -s -m 20 -o "$running/ready" -w '%{http_code}' "$url/readyz?verbose")"
  is "... because it is a learner" "[-]non_learner failed: not supported for learner" "$(grep non_learner "$running/ready")"
  is "... which can be measured" "etcd_server_is_learner 1" "$(curl -s -m 20 "$url/metrics" | grep '^etcd_server_is_learner ')"
  learn 1 4
  is "a voter is ready" "ok 200" "$(curl -s -m 20 -w '%{http_code}' "$url/readyz" | paste -sd' ')"
  says "... and writes" OK 4 put /grow/voter 1

  # The leader is taken out.
  for lead in 1 2 3 4; do
    [[ $(at "$lead" endpoint status | awk -F', ' '{print $9}') == true ]] && break
  done
  i=$((lead % 4 + 1))
  touch "$running/$lead.removed"
  id=$(id_of "$i" "$lead")
  # Refused, too, as long as the newcomer's connections are young; and its answer may get lost with the leader.
  removed() { at "$i" member remove "$id" >"$running/removed" || grep -q 'member not found' "$running/removed"; }
  is "the leader is removed" yes "$(cluster_poll 60 removed && echo yes || last "$(cat "$running/removed")")"
  is "... and ends by itself" yes "$(cluster_poll 60 test -e "$running/$lead.rc" && echo yes)"
  again() { at "$i" put /grow/without 1 >/dev/null; }
  is "... and the others go on" yes "$(cluster_poll 60 again && echo yes)"
  is "... which are three" 3 "$(at "$i" member list | wc -l)"
  : >"$running/$lead.log"
  cluster_member_start "$running" "$lead"
  is "started again, it ends by itself" yes "$(cluster_poll 60 test -e "$running/$lead.rc" && echo yes)"
  is "... and says why" removed "$(grep -o removed "$running/$lead.log" | head -n 1)"
  same() {
    sum=$(at "$i" endpoint hashkv --cluster -w json | jq -c '[length, ([.[].HashKV | [.hash, .hash_revision]] | unique | length)]')
    [[ $sum == "[3,1]" ]]
  }
  is "all three hold the same" yes "$(cluster_poll 30 same && echo yes || echo "$sum")"
  rm -f "$running/$lead.pid" && echo 0 >"$running/$lead.rc"
  down

  # From one to two to three, and without the first.
  up one-to-three 1 --snapshot-count=100
  for i in $(seq 1 250); do ctl put "/grow/$i" "$i" >/dev/null; done
  join 1
  says "two members write" OK 2 put /grow/two 2
  join 1 --learner
  learn 2 3
  says "three members write" OK 3 put /grow/three 3
  kill -KILL "$(cat "$running/1.pid")"
  cluster_member_stop "$running" 1
  i=3
  is "two of three go on without the first" yes "$(cluster_poll 60 again && echo yes)"
  says "... with all that was written" '"Count" : 253' 2 get /grow/ --prefix --count-only -w fields
  cluster_member_start "$running" 1
  cluster_member_wait "$running" 1
  is "... which comes back and holds the same" yes "$(cluster_poll 30 same && echo yes || echo "$sum")"
  down
}

# refuses FACT CODES REGEX ARGS...: the process ends soon, with one of these codes, and says why. $work/none is a data
# directory that is not there yet.
refuses() {
  local fact=$1 codes=$2 want=$3 rc=0
  shift 3
  rm -rf "$work/none"
  timeout 20 env -i PATH="$PATH" HOME=/ "$bin" "$@" >"$work/refused" 2>&1 </dev/null || rc=$?
  if [[ " $codes " == *" $rc "* ]] && grep -qE -- "$want" "$work/refused"; then
    ok "$fact"
  else
    bad "$fact" "exit $codes: $want" "exit $rc: $(grep -vE '"level":"(info|debug)"' "$work/refused" | tail -n 3 | cut -c1-300)"
  fi
}

process() {
  local c p held
  echo "# the process"
  is "--version prints what scripts parse" "etcd Version: 3." "$("$bin" --version | head -n 1 | cut -c1-16)"
  refuses "--help ends well" 0 "initial-cluster" --help
  refuses "an unknown flag: 2, and its name" 2 "nope" --nope
  refuses "a flag without its value: 2, and its name" 2 "name" --name
  refuses "a number that is none: 2, and the flag" 2 "heartbeat-interval" --heartbeat-interval abc
  refuses "a URL that is none: 2, and the URL" 2 "foo" --listen-client-urls foo --advertise-client-urls foo
  refuses "a URL with a path: 2, and the URL" 2 "127.0.0.1:1/x" --listen-client-urls http://127.0.0.1:1/x --advertise-client-urls http://127.0.0.1:1
  refuses "a cluster state that is none: 2, and the flag" 2 "initial-cluster-state" --initial-cluster-state foo
  refuses "listen URLs without advertise URLs" "1 2" "advertise-client-urls" --data-dir "$work/none" --listen-client-urls http://127.0.0.1:1
  refuses "an election timeout too short for the heartbeat" "1 2" "election-timeout" --data-dir "$work/none" --heartbeat-interval 100 --election-timeout 300
  refuses "an unknown compaction mode" "1 2" "auto-compaction-mode" --data-dir "$work/none" --auto-compaction-mode foo
  refuses "a config file that is not there: its name" "1 2" "$work/no.yml" --config-file "$work/no.yml"
  echo 'name: [' >"$work/bad.yml"
  refuses "a config file that is no YAML" "1 2" "[yY][aA][mM][lL]|bad.yml" --config-file "$work/bad.yml"
  echo 'listen-client-urls: foo' >"$work/url.yml"
  refuses "a config file with a bad URL" "1 2" "foo" --config-file "$work/url.yml"

  up held 1
  held=$(cat "$running/1.client")
  c=http://127.0.0.1:$(cluster_free_port)
  p=http://127.0.0.1:$(CLUSTER_PORTS_TAKEN=${c##*:} cluster_free_port)
  local urls=(--listen-peer-urls "$p" --initial-advertise-peer-urls "$p" --initial-cluster "default=$p")
  refuses "a client port in use: its address" 1 "${held#http://}" --data-dir "$work/none" --listen-client-urls "$held" --advertise-client-urls "$held" "${urls[@]}"
  urls+=(--listen-client-urls "$c" --advertise-client-urls "$c")
  refuses "a peer port in use: its address" 1 "$(sed 's|http://||' "$running/1.peer")" --data-dir "$work/none" "${urls[@]}" \
    --listen-peer-urls "$(cat "$running/1.peer")" --initial-advertise-peer-urls "$(cat "$running/1.peer")" --initial-cluster "default=$(cat "$running/1.peer")"
  refuses "a data directory that cannot be made: its name" 1 "/proc/nope" --data-dir /proc/nope "${urls[@]}"
  touch "$work/file"
  refuses "a data directory that is a file: its name" 1 "$work/file" --data-dir "$work/file" "${urls[@]}"
  refuses "a name that the initial cluster does not have" 1 "stranger" --name stranger --data-dir "$work/none" "${urls[@]}"
  refuses "an existing cluster that does not answer" 1 "cluster" --name new --data-dir "$work/none" --initial-cluster-state existing "${urls[@]}" --initial-cluster "new=$p,old=http://127.0.0.1:1"
  if [[ $TARGET == metastore ]]; then
    # etcd waits for ever for the lock, and takes whatever identity it finds.
    refuses "a data directory in use: its name" 1 "$running/1.data" --data-dir "$running/1.data" "${urls[@]}"
  fi
  is "... none of which disturbed the one that runs" OK "$(ctl put /held 1)"
  down
  if [[ $TARGET == metastore ]]; then
    before=$(find "$work/held/1.data" -type f -exec sha256sum {} + | sort)
    refuses "the data directory of another member: its name" 1 "$work/held/1.data" --name other --data-dir "$work/held/1.data" "${urls[@]}" --initial-cluster "other=$p"
    is "... which is left as it was" "$before" "$(find "$work/held/1.data" -type f -exec sha256sum {} + | sort)"
  fi
}

# --- TLS ---

# Makes $pki/NAME.pem and NAME-key.pem, signed by the CA of that name: certificate NAME CA [NAMES]
certificate() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1-key.pem"
  openssl req -new -key "$pki/$1-key.pem" -subj "/CN=$1" -out "$pki/$1.csr"
  printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}" >"$pki/$1.ext"
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/$2.pem" -CAkey "$pki/$2-key.pem" -CAcreateserial -days 2 \
    -extfile "$pki/$1.ext" -out "$pki/$1.pem" 2>/dev/null
}
authority() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1-key.pem"
  openssl req -x509 -new -key "$pki/$1-key.pem" -subj "/CN=$1" -days 2 -out "$pki/$1.pem"
}
# etcdctl as somebody: as NAME CA ARGS...
as() {
  local who=$1 ca=$2
  shift 2
  timeout 60 "$etcdctl" --endpoints "$CLUSTER_ENDPOINTS" --command-timeout 5s --cacert "$pki/$ca.pem" \
    --cert "$pki/$who.pem" --key "$pki/$who-key.pem" "$@" 2>/dev/null
}
shows() { # shows NAME: the first member shows this certificate
  local to=${CLUSTER_ENDPOINTS%%,*}
  [[ $(openssl s_client -connect "${to#https://}" -cert "$pki/root.pem" -key "$pki/root-key.pem" </dev/null 2>/dev/null |
    openssl x509 -noout -serial) == "$(openssl x509 -noout -serial -in "$pki/$1.pem")" ]]
}

tls() {
  local version leads id names=DNS:localhost,IP:127.0.0.1,IP:::1
  pki=$work/pki
  mkdir "$pki"
  authority ca
  authority other
  certificate member ca "$names"
  certificate next ca "$names"
  certificate root ca
  certificate stranger other
  cp "$pki/member.pem" "$pki/used.pem"
  cp "$pki/member-key.pem" "$pki/used-key.pem"
  CLUSTER_SCHEME=https CLUSTER_PEER_SCHEME=https
  CLUSTER_CURL="--cacert $pki/ca.pem --cert $pki/root.pem --key $pki/root-key.pem"
  up tls 3 --cert-file "$pki/used.pem" --key-file "$pki/used-key.pem" --trusted-ca-file "$pki/ca.pem" --client-cert-auth \
    --peer-cert-file "$pki/used.pem" --peer-key-file "$pki/used-key.pem" --peer-trusted-ca-file "$pki/ca.pem" --peer-client-cert-auth
  is "a client with a certificate writes" OK "$(as root ca put /tls/k v)"
  is "... and reads" v "$(as root ca get /tls/k --print-value-only)"
  is "... and finds all members well" 3 "$(as root ca endpoint health -w json | jq 'map(select(.health)) | length')"
  leads=$(as root ca endpoint status | awk -F', ' '$9 == "true" {print $2, $1; exit}')
  id=$(as root ca member list | awk -F', ' -v lead="${leads% *}" '$1 != lead {print $1; exit}')
  is "... and moves the leadership" "Leadership transferred from ${leads% *} to $id" \
    "$(CLUSTER_ENDPOINTS=${leads#* } as root ca move-leader "$id")"
  is "pages are served to who has a certificate" true \
    "$(curl -s -m 10 $CLUSTER_CURL "${CLUSTER_ENDPOINTS%%,*}/health" | jq -r .health)"
  is "without a certificate nobody comes in" no \
    "$("$etcdctl" --endpoints "$CLUSTER_ENDPOINTS" --command-timeout 5s --cacert "$pki/ca.pem" get /tls/k >/dev/null 2>&1 && echo yes || echo no)"
  is "... nor with one of another CA" no "$(as stranger ca get /tls/k >/dev/null && echo yes || echo no)"
  is "... nor is a member believed whose CA is another" no "$(as root other get /tls/k >/dev/null && echo yes || echo no)"
  is "... nor without TLS" no \
    "$("$etcdctl" --endpoints "${CLUSTER_ENDPOINTS//https/http}" --command-timeout 5s get /tls/k >/dev/null 2>&1 && echo yes || echo no)"
  for version in tls1_2 tls1_3; do
    is "$version is spoken" yes "$(openssl s_client "-$version" -connect "${CLUSTER_ENDPOINTS##*https://}" -cert "$pki/root.pem" \
      -key "$pki/root-key.pem" </dev/null 2>/dev/null | grep -q 'Cipher is [A-Z]' && echo yes)"
  done
  is "HTTP/2 is agreed on" "ALPN protocol: h2" "$(openssl s_client -alpn h2,http/1.1 -connect "${CLUSTER_ENDPOINTS##*https://}" \
    -cert "$pki/root.pem" -key "$pki/root-key.pem" </dev/null 2>/dev/null | grep '^ALPN')"
  cp "$pki/next.pem" "$pki/used.pem"
  cp "$pki/next-key.pem" "$pki/used-key.pem"
  is "a new certificate is taken up while running" yes "$(cluster_poll 20 shows next && echo yes)"
  is "... and clients come in" OK "$(as root ca put /tls/k v2)"
  kill -KILL "$(cat "$running/1.pid")"
  cluster_member_stop "$running" 1
  cluster_member_start "$running" 1 --cert-file "$pki/used.pem" --key-file "$pki/used-key.pem" --trusted-ca-file "$pki/ca.pem" \
    --client-cert-auth --peer-cert-file "$pki/used.pem" --peer-key-file "$pki/used-key.pem" \
    --peer-trusted-ca-file "$pki/ca.pem" --peer-client-cert-auth
  cluster_member_wait "$running" 1
  is "... and a member that comes back is let in by its peers" v2 "$(as root ca get /tls/k --print-value-only)"
  down
  refuses "https without a certificate: the URL" "1 2" "https://127.0.0.1:1" --data-dir "$work/none" \
    --listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1
  refuses "a certificate without its key" "1 2" "key" --data-dir "$work/none" --cert-file "$pki/used.pem" \
    --listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1
}

if (($# == 1)); then
  case $1 in process | one | three | full | restart | grow | tls) ;; *) echo "$1: no such session" >&2; exit 2 ;; esac
  session=$1
  "$1"
  session=""
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  ((failed == 0))
  exit
fi

# Many sessions: each is a process of its own, so that one that cannot go on takes no other with it.
if (($# == 0)); then set -- process one three full restart grow tls; fi
for name; do
  begun=$SECONDS rc=0
  "$0" "$bin" "$name" | tee "$work/$name.out" || rc=$?
  read -r p f < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$work/$name.out" | tail -n 1) || true
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
  if ((rc != 0 && ${f:-0} == 0)); then bad "the session $name gets to its end" "exit 0" "exit $rc"; fi
  times+="${times:+, }$name $((SECONDS - begun)) s"
done
printf '\n%s: %s\n%d passed, %d failed\n' "$TARGET" "$times" "$passed" "$failed"
((failed == 0))

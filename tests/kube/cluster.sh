#!/bin/bash
# A small real Kubernetes cluster in namespaces of its own: the control plane in netns tkcp (10.77.0.10), node N in netns tknN (10.77.0.1N)
# with a Docker engine and a pid namespace of its own. Everything ends by itself after LIFE seconds.
#   cluster.sh up BIN STATE [NODES]    cluster.sh down STATE    cluster.sh program NAME STATE (start one of the control plane again)
#   cluster.sh node N STATE (start one more, or one that has died)
set -u
HERE=$(dirname "$(readlink -f "$0")"); LIFE=${LIFE:-3600}
down() { S=$1
  for f in "$S"/*.pid; do [ -f "$f" ] && kill -9 "$(cat "$f")" 2>/dev/null; done; sleep 0.5
  for n in tkcp tkn1 tkn2; do ip netns del $n 2>/dev/null; done; ip link del tkhost 2>/dev/null
  ip route del unreachable 10.77.0.0/24 metric 9999 2>/dev/null; ip route del unreachable 172.30.0.0/16 metric 9999 2>/dev/null
  for c in unified cpu cpuacct cpuset memory devices freezer blkio pids systemd .; do find /sys/fs/cgroup/$c/tk1 /sys/fs/cgroup/$c/tk2 -depth -type d -exec rmdir {} + 2>/dev/null; done
  mount | awk -v s="$S" 'index($3,s)==1{print $3}' | sort -r | xargs -r umount -l 2>/dev/null; true; }
# a program that ends with its timer, however that ends
program() { n=$1; shift
  cd "$S/pki" || exit 1
  setsid timeout -k 5 "$LIFE" setpriv --pdeathsig KILL ip netns exec tkcp nice -n 5 "$@" < /dev/null >> "$S/$n.log" 2>&1 & echo $! > "$S/$n.pid"; }
etcd_() { program etcd etcd --data-dir "$S/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync; }
apiserver() { program apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --bind-address 10.77.0.10 --advertise-address 10.77.0.10 --secure-port 6443 --tls-cert-file api.crt --tls-private-key-file api.key \
  --service-account-issuer https://kubernetes.default --service-account-signing-key-file sa.key --service-account-key-file sa.pub --token-auth-file tokens.csv --authorization-mode Node,RBAC \
  --service-cluster-ip-range 10.96.0.0/16 --kubelet-preferred-address-types InternalIP --allow-privileged --default-not-ready-toleration-seconds "${TOL:-30}" --default-unreachable-toleration-seconds "${TOL:-30}" \
  --enable-admission-plugins OwnerReferencesPermissionEnforcement --feature-gates TTLAfterFinished=true \
  --audit-policy-file audit.yaml --audit-log-path "$S/audit.log"; }
kcm() { program kcm "$BIN/kube-controller-manager" --kubeconfig "$S/kcm.conf" --service-account-private-key-file sa.key --root-ca-file ca.crt --use-service-account-credentials=false --bind-address 127.0.0.1 --leader-elect=false \
  --node-monitor-period 1s --node-monitor-grace-period "${GRACE:-20}s" --concurrent-gc-syncs 4 --port 0 --feature-gates TTLAfterFinished=true; }
sched() { program sched "$BIN/kube-scheduler" --kubeconfig "$S/sched.conf" --leader-elect=false --bind-address 127.0.0.1 --port 0; }
case $1 in
  down) down "$2"; exit;;
  program) S=$3; BIN=$(cat "$S/bin"); "$2"; exit;;
  node) S=$3; "$HERE/node.sh" "$(cat "$S/bin")" "$S" "$2"; exit;;
esac
BIN=$2; S=$3; NODES=${4:-1}; mkdir -p "$S/pki"; echo "$BIN" > "$S/bin"; cd "$S/pki" || exit 1
# the bridge lives in the control plane's namespace: on the host, Docker's FORWARD rules would drop its frames
ip netns add tkcp; ip -n tkcp link set lo up; ip -n tkcp link add tkbr type bridge; ip -n tkcp addr add 10.77.0.10/24 dev tkbr; ip -n tkcp link set tkbr up
ip link add tkhost type veth peer name vhost netns tkcp; ip addr add 10.77.0.1/24 dev tkhost; ip link set tkhost up; ip -n tkcp link set vhost master tkbr up
# without the link nothing of ours leaves this machine by the default route
ip route add unreachable 10.77.0.0/24 metric 9999 2>/dev/null; ip route add unreachable 172.30.0.0/16 metric 9999 2>/dev/null
if [ ! -f ca.crt ]; then
  openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=tk-ca -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -keyout api.key -out api.csr -subj /CN=kube-apiserver 2>/dev/null
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out api.crt -days 30 -extfile <(printf 'subjectAltName=IP:10.77.0.10,IP:10.96.0.1,IP:127.0.0.1,DNS:kubernetes.default\nauthorityKeyIdentifier=keyid\n') 2>/dev/null
  cat > tokens.csv <<X
admin-token,admin,admin,"system:masters"
kcm-token,system:kube-controller-manager,kcm,"system:masters"
sched-token,system:kube-scheduler,sched
n1-token,system:node:n1,n1,"system:nodes"
n2-token,system:node:n2,n2,"system:nodes"
tether-token,tether,tether
X
fi
# who asked for what, of those accounts that tests use
cat > audit.yaml <<X
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata, users: [admin, tether]}, {level: None}]
X
for u in admin kcm sched n1 n2 tether; do cat > "$S/$u.conf" <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.77.0.10:6443", certificate-authority: $S/pki/ca.crt}}]
users: [{name: u, user: {token: $u-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
X
done
etcd_; apiserver
for _ in $(seq 2400); do ip netns exec tkcp curl -sk https://10.77.0.10:6443/readyz | grep -qx ok && break; sleep 0.1; done
kcm; sched
for i in $(seq "$NODES"); do "$HERE/node.sh" "$BIN" "$S" "$i"; done

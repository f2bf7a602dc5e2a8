#!/bin/bash
# One node: netns tknN, a pid and a mount namespace, a Docker engine and a kubelet. usage: node.sh BIN STATE N
# kill -9 of the pid in nodeN.pid is the death of the whole machine.
set -u; HERE=$(dirname "$(readlink -f "$0")"); BIN=$1; S=$2; N=$3; D=$S/n$N; LIFE=${LIFE:-3600}
mkdir -p "$D"/docker "$D"/run "$D"/kubelet "$D"/logs/pods "$D"/logs/containers "$D"/shim
if ! ip netns list | grep -qw "tkn$N"; then
  ip netns add "tkn$N"; ip -n tkcp link add "vtkn$N" type veth peer name eth0 netns "tkn$N"; ip -n tkcp link set "vtkn$N" master tkbr up
  ip -n "tkn$N" addr add "10.77.0.1$N/24" dev eth0; ip -n "tkn$N" link set lo up; ip -n "tkn$N" link set eth0 up
  ip -n "tkn$N" route add default via 10.77.0.1
  ip route replace "172.30.$N.0/24" via "10.77.0.1$N"; ip -n tkcp route replace "172.30.$N.0/24" via "10.77.0.1$N"
fi
# The flags alone leave a node's heartbeat at 10 s or more.
cat > "$D/kubelet.yaml" <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 2s
nodeLeaseDurationSeconds: 20
X
cat > "$D/inner.sh" <<X
mkdir -p /tmp/.tkfake; mount -t tmpfs t /tmp/.tkfake
# the kubelet would set these of the machine itself: give it files instead
fake() { f=/tmp/.tkfake/\$(echo \$1 | tr / _); echo \$2 > \$f; mount --bind \$f /proc/sys/\$1; }
fake vm/overcommit_memory 1; fake vm/panic_on_oom 0; fake kernel/panic 10; fake kernel/panic_on_oops 1; fake kernel/keys/root_maxkeys 1000000; fake kernel/keys/root_maxbytes 25000000
echo 1 > /proc/sys/net/ipv4/ip_forward
iptables -t nat -A PREROUTING -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to 10.77.0.10:6443
iptables -t nat -A OUTPUT -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to 10.77.0.10:6443
mount -t tmpfs t /run
mkdir -p /var/lib/dockershim /var/log/pods /var/log/containers; mount --bind $D/shim /var/lib/dockershim; mount --bind $D/logs/pods /var/log/pods; mount --bind $D/logs/containers /var/log/containers
dockerd --data-root $D/docker --exec-root /run/dexec -H unix://$D/docker.sock --pidfile /run/docker.pid --bip 172.30.$N.1/24 --cgroup-parent /tk$N --exec-opt native.cgroupdriver=cgroupfs --ip-masq=false --log-level warn --add-runtime tk=$HERE/runc-tk --default-runtime tk > $D/dockerd.log 2>&1 &
for i in \$(seq 1800); do docker -H unix://$D/docker.sock version >/dev/null 2>&1 && break; sleep 0.1; done
docker -H unix://$D/docker.sock image inspect tk/box:1 >/dev/null 2>&1 || { tar -C $S/rootfs -c . | docker -H unix://$D/docker.sock import -c 'CMD ["/bin/sh"]' - tk/box:1; tar -C $S/rootfs -c . | docker -H unix://$D/docker.sock import -c 'ENTRYPOINT ["/bin/pause"]' - tk/pause:1; }
exec $BIN/kubelet --config $D/kubelet.yaml --kubeconfig $S/n$N.conf --container-runtime docker --docker-endpoint unix://$D/docker.sock --pod-infra-container-image tk/pause:1 --hostname-override n$N --node-ip 10.77.0.1$N --address 10.77.0.1$N \
 --cgroup-driver cgroupfs --cgroups-per-qos=false --enforce-node-allocatable= --fail-swap-on=false --register-node --root-dir $D/kubelet --cert-dir $D/pki --seccomp-profile-root $D/sec --volume-plugin-dir $D/vol --resolv-conf= --eviction-hard= --image-gc-high-threshold 100 \
 --make-iptables-util-chains=false --anonymous-auth --authorization-mode AlwaysAllow --read-only-port 0 --healthz-port 0 --sync-frequency 5s --file-check-frequency 1h --container-log-max-files 2 --cni-bin-dir $D/none --cni-conf-dir $D/none --v 1
X
if [ ! -d "$S/rootfs" ]; then
  mkdir -p "$S"/rootfs/bin "$S"/rootfs/tmp "$S"/rootfs/etc; cp /bin/busybox "$S/rootfs/bin/"
  for a in sh sleep cat echo ls nc wget httpd kill ps date env mkdir touch trap rm id hostname head tail dd tar true false seq; do ln -sf busybox "$S/rootfs/bin/$a"; done
  gcc -static -O2 -o "$S/rootfs/bin/pause" "$HERE/pause.c"
fi
setsid timeout -k 5 "$LIFE" setpriv --pdeathsig KILL nsenter --net="/run/netns/tkn$N" unshare -m -p --fork --kill-child --mount-proc --propagation private bash "$D/inner.sh" < /dev/null >> "$D/kubelet.log" 2>&1 &
echo $! > "$S/node$N.pid"

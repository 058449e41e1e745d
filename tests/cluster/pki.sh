# shellcheck shell=bash
# Sourced by up: the cluster's certificates and kubeconfigs, made with openssl.
# P-256 throughout, since such a key costs a millisecond.

make_pki() {
  mkdir -p "$PKI"
  key ca
  openssl req -x509 -new -key "$PKI/ca.key" -subj "/CN=$NAME" -days 3650 -out "$PKI/ca.crt" \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
  key sa
  openssl ec -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
  local service=kubernetes.default.svc
  cert apiserver "/CN=kube-apiserver" "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:$service,DNS:$service.cluster.local,IP:127.0.0.1,IP:$NODE_IP,IP:$SVC_API"
  cert front-proxy "/CN=front-proxy"
  cert controller-manager "/CN=system:kube-controller-manager"
  cert admin "/O=system:masters/CN=admin"
  kubeconfig_for controller-manager
  if [ "$FLAVOUR" = full ]; then
    cert apiserver-kubelet "/O=system:masters/CN=kube-apiserver"
    cert kubelet "/O=system:nodes/CN=system:node:$NODE" "subjectAltName=DNS:$NODE,IP:$NODE_IP"
    cert scheduler "/CN=system:kube-scheduler"
    cert proxy "/CN=system:kube-proxy"
    cert coredns "/O=system:masters/CN=coredns"
    cert volume-provisioner "/O=system:masters/CN=volume-provisioner"
    local user
    for user in kubelet scheduler proxy coredns volume-provisioner; do kubeconfig_for $user; done
  fi
  kubeconfig_for admin "$STATE/kubeconfig"
}

key() { (umask 077; openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"); }

# cert NAME SUBJECT [EXTENSION]: good for a server and for a client.
cert() {
  key "$1"
  openssl req -new -key "$PKI/$1.key" -subj "$2" |
    openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 -out "$PKI/$1.crt" \
      -extfile <(printf '%s\n' basicConstraints=CA:FALSE keyUsage=digitalSignature extendedKeyUsage=clientAuth,serverAuth "${3:-}") 2>/dev/null
}

# kubeconfig_for USER [FILE]
kubeconfig_for() {
  (
    umask 077
    cat >"${2:-$PKI/$1.kubeconfig}" <<Y
apiVersion: v1
kind: Config
current-context: $NAME
contexts: [{name: $NAME, context: {cluster: $NAME, user: $1}}]
clusters: [{name: $NAME, cluster: {server: "https://$NODE_IP:$PORT", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}}]
Y
  )
}

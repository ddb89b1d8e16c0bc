{{/*
What the operator may do in a namespace with MetaStores: bound cluster-wide, or in each of watchNamespaces. Every verb is
one it uses: children are read by name before they are written, by server-side apply, which is `create` and `patch`; what is
watched is listed first.
*/}}
{{- define "metastore.rules" -}}
- apiGroups: [metastore.io]
  resources: [metastores]
  verbs: [get, list, watch]
- apiGroups: [metastore.io]
  resources: [metastores/status]
  verbs: [patch]
# The owner of objects can be waited for only by who may set its finalizers.
- apiGroups: [metastore.io]
  resources: [metastores/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Certificates and keys. They are deleted with their MetaStore, by the garbage collector.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
# Claims are made by the StatefulSet's controller; the operator grows and, where the policy says so, deletes them.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.rbac.certManager }}
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch, delete]
{{- end }}
{{- if .Values.rbac.prometheusOperator }}
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors, podmonitors]
  verbs: [get, create, patch, delete]
{{- end }}
{{- end -}}

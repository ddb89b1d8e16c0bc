{{/*
What the operator may do in a namespace with MetaStores: bound cluster-wide, or in each of watchNamespaces. Every verb is
one it uses; objects are written by server-side apply, which is `create` and `patch`.
*/}}
{{- define "metastore.rules" -}}
- apiGroups: [metastore.io]
  resources: [metastores]
  verbs: [get, list, watch]
- apiGroups: [metastore.io]
  resources: [metastores/status]
  verbs: [get, patch]
# The owner of objects can be waited for only by who may set its finalizers.
- apiGroups: [metastore.io]
  resources: [metastores/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps, secrets, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Claims are made by the StatefulSet's controller; the operator grows and, where the policy says so, deletes them.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
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
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- if .Values.rbac.prometheusOperator }}
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors, podmonitors]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- end -}}

{{/*
What a pod mounts, and where. Secrets are mounted as directories: a subPath is never updated. Tokens and
certificate are optional for the kubelet alone: without them the service ends with a line that names the
key in values.yaml, where a pod would else hang in ContainerCreating and say nothing in its log.
*/}}

{{- define "tailorbird.volumes" -}}
- name: data
  {{- include "tailorbird.dataVolume" . | nindent 2 }}
- name: temporary
  emptyDir:
    sizeLimit: {{ .values.temporary.sizeLimit }}
- name: tokens
  secret:
    secretName: {{ .root.Values.auth.existingSecret | quote }}
    optional: true
    defaultMode: 0440
    items:
      - key: {{ .root.Values.auth.key | quote }}
        path: tokens.json
{{- with .root.Values.tls }}
{{- if .existingSecret }}
- name: tls
  secret:
    secretName: {{ .existingSecret | quote }}
    optional: true
    defaultMode: 0440
    items:
      - key: {{ .certificateKey | quote }}
        path: tls.crt
      - key: {{ .privateKeyKey | quote }}
        path: tls.key
{{- end }}
{{- end }}
{{- include "tailorbird.baseVolume" .root }}
{{- if include "tailorbird.fileStore" .root }}
- name: store
  persistentVolumeClaim:
    claimName: {{ include "tailorbird.storeClaim" .root | quote }}
{{- end }}
{{- if include "tailorbird.sharedMemory" . }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ .values.sharedMemory.sizeLimit }}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tailorbird.volumeMounts" -}}
- name: data
  mountPath: /var/lib/tailorbird
- name: temporary
  mountPath: /tmp
- name: tokens
  mountPath: /etc/tailorbird/tokens
  readOnly: true
{{- if .root.Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/tailorbird/tls
  readOnly: true
{{- end }}
{{- with .root.Values.baseModel }}
{{- if .huggingFace.id }}
- name: hub-cache
  mountPath: /var/cache/huggingface
  {{- if .huggingFace.offline }}
  readOnly: true
  {{- end }}
{{- else }}
- name: base-model
  mountPath: /base-model
  readOnly: true
{{- end }}
{{- end }}
{{- if include "tailorbird.fileStore" .root }}
- name: store
  mountPath: /store
{{- end }}
{{- if include "tailorbird.sharedMemory" . }}
- name: shared-memory
  mountPath: /dev/shm
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The claim of the one trainer outlives it; any other pod's volume is of its own, and goes with it. */}}
{{- define "tailorbird.dataVolume" -}}
{{- if eq .name "trainer" -}}
persistentVolumeClaim:
  claimName: {{ .values.storage.existingClaim | default (include "tailorbird.partName" .) | quote }}
{{- else if eq .values.cache.type "ephemeral" -}}
ephemeral:
  volumeClaimTemplate:
    metadata:
      labels:
        {{- include "tailorbird.labels" . | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .values.cache.storageClassName }}
      storageClassName: {{ . | quote }}
      {{- end }}
      resources:
        requests:
          storage: {{ .values.cache.size }}
{{- else -}}
emptyDir:
  sizeLimit: {{ .values.cache.size }}
{{- end -}}
{{- end -}}

{{- define "tailorbird.baseVolume" -}}
{{- with .Values.baseModel }}
{{- if .huggingFace.id }}
- name: hub-cache
  {{- with .huggingFace.cache }}
  {{- if .existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .existingClaim | quote }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .sizeLimit }}
  {{- end }}
  {{- end }}
{{- else if .claim.existingClaim }}
- name: base-model
  persistentVolumeClaim:
    claimName: {{ .claim.existingClaim | quote }}
    readOnly: true
{{- else }}
- name: base-model
  image:
    reference: {{ .image.reference | quote }}
    pullPolicy: {{ .image.pullPolicy }}
{{- end }}
{{- end }}
{{- end -}}

{{/* true or nothing: whether the object store is the claim at /store. */}}
{{- define "tailorbird.fileStore" -}}
{{- if hasPrefix "file:" .Values.objectStore.url -}}true{{- end -}}
{{- end -}}

{{- define "tailorbird.storeClaim" -}}
{{- .Values.objectStore.claim.existingClaim | default (printf "%s-store" (include "tailorbird.fullname" .)) -}}
{{- end -}}

{{/* true or nothing: whether the engine's processes need more than a runtime's 64 MiB of /dev/shm. */}}
{{- define "tailorbird.sharedMemory" -}}
{{- if and (eq .name "serving") (gt (.values.config.tensorParallelSize | default 1 | int) 1) -}}true{{- end -}}
{{- end -}}

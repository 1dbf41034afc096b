{{/*
What a pod needs that calls the services by the CLI or the client: (dict "root" $ "authority" SECRET),
SECRET the values {name, key} of the authority's certificate; without a name it is that of `tls`.
*/}}

{{- define "tailorbird.authority" -}}
{{- $tls := .root.Values.tls -}}
{{- $authority := ternary .authority (dict "name" $tls.existingSecret "key" $tls.authorityKey) (ne .authority.name "") -}}
{{- if and $tls.existingSecret $authority.name $authority.key -}}
{{- toYaml $authority -}}
{{- end -}}
{{- end -}}

{{- define "tailorbird.callerEnv" -}}
{{- if include "tailorbird.authority" . -}}
- name: TAILORBIRD_ROOT_CERTIFICATES
  value: /etc/tailorbird/authority/ca.crt
{{- else if not .root.Values.tls.existingSecret -}}
# The mesh encrypts it.
- name: TAILORBIRD_PLAINTEXT
  value: "true"
{{- end -}}
{{- end -}}

{{- define "tailorbird.callerMounts" -}}
{{- if include "tailorbird.authority" . -}}
- name: authority
  mountPath: /etc/tailorbird/authority
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "tailorbird.callerVolumes" -}}
{{- with include "tailorbird.authority" . | fromYaml -}}
{{- if .name -}}
- name: authority
  secret:
    secretName: {{ .name | quote }}
    # Without it the CLI ends with a line, where the pod would else wait in silence.
    optional: true
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end -}}
{{- end -}}
{{- end -}}

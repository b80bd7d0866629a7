{{- define "provisiond.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "provisiond.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "provisiond.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "provisiond.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "provisiond.selector" -}}
app.kubernetes.io/name: provisiond
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "provisiond.labels" -}}
{{ include "provisiond.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "provisiond.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Pod Security "restricted", for the server and for the migration alike. */}}
{{- define "provisiond.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "provisiond.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The configuration file; extraConfig is laid over it key by key. */}}
{{- define "provisiond.config" -}}
{{- $certs := list -}}
{{- range $i, $c := .Values.certificates -}}
{{- $certs = append $certs (dict "pfx" (printf "/etc/provisiond/certificates/%d/%s" $i $c.pfxKey) "password_file" (printf "/etc/provisiond/certificates/%d/%s" $i $c.passwordKey)) -}}
{{- end -}}
{{- $base := dict
  "data_dir" "/var/lib/provisiond"
  "master_key" (dict "file" (printf "/etc/provisiond/key/%s" .Values.masterKey.key))
  "hello" (dict "listen" "[::]:9971" "limits" .Values.hello.limits)
  "api" (dict "listen" "[::]:8443" "tls" (dict "cert" "/etc/provisiond/tls/tls.crt" "key" "/etc/provisiond/tls/tls.key"))
  "provisioning" (dict "certificates" $certs "networks" .Values.provisioning.networks "admission" .Values.provisioning.admission)
  "zones" .Values.zones -}}
{{- mergeOverwrite $base (deepCopy .Values.extraConfig) | toYaml -}}
{{- end -}}
